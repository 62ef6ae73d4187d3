"""A browser at a server of the tiny bundle. Without playwright, a Chromium or axe-core tests skip and say so."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from attributary.building import build_bundle

AXE = "axe-core@4.11.0"
# Text of somebody who means no good: where it is shown, it must be shown as it is.
NASTY = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


# Not for the session: while it runs, playwright's loop is the running one, and no test of asyncio can have its own.
@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core, from its npm package."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm here, and axe-core comes from there")
    folder = tmp_path_factory.mktemp("axe")
    got = subprocess.run(
        [npm, "install", "--silent", "--no-save", "--ignore-scripts", "--prefix", str(folder), AXE],
        capture_output=True,
        check=False,
        timeout=120,
    )
    source = folder / "node_modules" / "axe-core" / "axe.min.js"
    if got.returncode or not source.is_file():
        pytest.skip(f"{AXE} cannot be fetched here")
    return source.read_text()


@pytest.fixture(scope="session")
def pictured_bundle(tiny, tiny_encoder_dir, tmp_path_factory):
    """A bundle with thumbnails; the first creator and caption are hostile."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    corpus = tiny.draw_corpus(tmp_path_factory.mktemp("pages") / "corpus", 60)
    rows = pq.read_table(corpus / "items.parquet").to_pylist()
    for row in rows:
        row["creator_url"] = (
            "javascript:window.hacked=1" if row["creator"] == "Ann" else "https://example.org/"
        )
        if row["creator"] == "Ann":
            row |= {"creator": NASTY, "caption": f"a {NASTY}"}
    pq.write_table(pa.Table.from_pylist(rows), corpus / "items.parquet")
    out = tmp_path_factory.mktemp("pages") / "bundle"
    # Names are read, so that a prompt may hold the hostile one and find its items.
    build_bundle(corpus, tiny_encoder_dir, out, probes=60, workers=1, thumbnails=(), names_in_prompts="read")
    return corpus, out


class Site:
    def __init__(self, address, corpus):
        self.address, self.corpus = address, corpus

    def picture(self, number):
        return self.corpus / "pictures" / f"{number}.png"


def served(bundle, *more):
    """A context: the real command line, serving a page."""
    process = subprocess.Popen(
        [sys.executable, "-m", "attributary.cli.main", "serve", str(bundle), "--ui", "--http-port", "0", "--port", "0",
         "--metrics-port", "-1", *more],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return process, f"http://127.0.0.1:{json.loads(process.stdout.readline())['http_port']}"


@pytest.fixture(scope="session")
def site(pictured_bundle, tiny, tmp_path_factory):
    corpus, bundle = pictured_bundle
    report = tmp_path_factory.mktemp("report") / "report.html"
    report.write_text(
        "<!doctype html><title>x</title><style>h1 { color: rgb(1, 2, 3) }</style><h1>Run of November</h1>"
        "<script>parent.hacked = 1</script>"
    )
    generator = tiny.write_generator(tmp_path_factory.mktemp("generator"))
    process, address = served(bundle, "--ui-report", str(report), "--ui-generator", str(generator))
    yield Site(address, corpus)
    process.terminate()
    process.communicate(timeout=30)


@pytest.fixture
def page(chromium, site):
    """A page that is open; at the end: nothing left the host, no script of others ran, nothing was refused."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    asked, errors = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    opened.set_default_timeout(20_000)
    opened.goto(site.address)
    yield opened
    outside = [url for url in asked if not url.startswith((site.address, "blob:", "data:", "about:"))]
    assert outside == []
    assert opened.evaluate("window.hacked") is None
    # What the server refused, and a script of a report that did not run, are told on the console.
    told = ("about:srcdoc", "status of 400")
    assert [error for error in errors if not any(words in error for words in told)] == []
    context.close()


@pytest.fixture(scope="session")
def noise(tmp_path_factory):
    """A picture that resembles nothing."""
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    rng = np.random.default_rng(1)
    Image.fromarray(rng.choice(np.array([0, 255], np.uint8), (64, 64, 3))).save(path)
    return path
