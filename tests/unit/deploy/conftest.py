"""The chart rendered by Helm, and the metrics page of a real gateway."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "attributary"


@pytest.fixture(scope="session")
def helm():
    """Function: value sets -> Helm's answers; `helm.lint` is the lint report."""
    pytest.importorskip("helm_python", reason="Helm's library: pip install helm-python-sdk")

    def ask(*values):
        command = [sys.executable, str(Path(__file__).with_name("render.py")), str(CHART)]
        done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout)
        ask.lint = answer["lint"]
        return answer["answers"]

    return ask


@pytest.fixture(scope="session")
def manifests(helm):
    """Function: values -> list of rendered objects."""

    def render(values=None):
        answer = helm(values or {})[0]
        assert "error" not in answer, answer
        texts = (text for name, text in answer["files"].items() if name.endswith(".yaml"))
        return [part for text in texts for part in yaml.safe_load_all(text) if part]

    return render


@pytest.fixture(scope="session")
def gateway_metrics(start_server, picture):
    """Metric name -> names of its labels, as a gateway exports them after a query."""
    with start_server() as server:
        with server.client() as client:
            client.attribute(picture(0))
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as reply:
            page = reply.read().decode()
    found = {}
    for line in page.splitlines():
        if match := re.match(r"(attributary_\w+)(?:\{(.*)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found
