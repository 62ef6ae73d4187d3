"""The check of links that leave the repository: what leads nowhere is told, and so is a machine without a network."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "packaging" / "check_links.py"


@pytest.fixture
def site():
    """An address that knows one page."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/there" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def check(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    return subprocess.run(
        [sys.executable, str(CHECK), str(page)], capture_output=True, text=True, check=False, timeout=120,
        env={"PATH": "/usr/bin:/bin", "no_proxy": "*"},
    )  # fmt: skip


def test_a_link_that_leads_nowhere_is_told_with_its_page(tmp_path, site):
    ran = check(tmp_path, f"[a]({site}/there#part) and <{site}/there>")
    assert (ran.returncode, ran.stdout) == (0, "1 links checked, 0 lead nowhere\n")
    ran = check(tmp_path, f"[a]({site}/there) and [b]({site}/gone)")
    assert ran.returncode == 1
    assert f"{site}/gone: answers 404; in page.md" in ran.stdout and "2 links checked, 1 lead" in ran.stdout


def test_without_a_network_nothing_is_claimed(tmp_path):
    ran = check(tmp_path, "[a](http://nowhere.invalid/) and [b](https://nowhere-else.invalid/x)")
    assert ran.returncode == 2
    assert ran.stdout == "There is no network here: 2 links were not checked.\n"


def test_a_host_that_is_not_there_is_told_where_others_are(tmp_path, site):
    ran = check(tmp_path, f"[a]({site}/there) and [b](http://nowhere.invalid/)")
    assert ran.returncode == 1 and "http://nowhere.invalid/: not reached" in ran.stdout
