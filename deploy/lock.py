"""Write deploy/requirements.lock: what the gateway's image installs, each file by its SHA-256.

    python deploy/lock.py

Versions are those of constraints.txt, files those for the image's Python on x86-64 and ARM. pip resolves and names the
hashes; nothing is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "deploy" / "requirements.lock"
EXTRAS = ("triton", "http", "jwt", "otel", "receipts")
PLATFORMS = {
    machine: [f"manylinux_2_{minor}_{machine}" for minor in (17, 24, 26, 27, 28, 34, 35)]
    + [f"manylinux2014_{machine}"]
    for machine in ("x86_64", "aarch64")
}


def wanted() -> list[str]:
    """What the package and its extras ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [
        *project["dependencies"],
        *(line for extra in EXTRAS for line in project["optional-dependencies"][extra]),
    ]


def python_version() -> str:
    """That of the gateway's image, as 3.12."""
    text = (ROOT / "deploy" / "docker" / "gateway.Dockerfile").read_text()
    return re.search(r"ARG PYTHON=(\d+\.\d+)", text).group(1)  # type: ignore[union-attr]


def resolved(machine: str) -> dict[str, tuple[str, str]]:
    """Name -> (version, SHA-256) of the files that pip would install on a machine."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--dry-run",
            "--ignore-installed",
            "--only-binary", ":all:", "--target", folder, "--python-version", python_version(), "--report", str(report),
            "-c", str(ROOT / "constraints.txt"),
        ]  # fmt: skip
        for platform in PLATFORMS[machine]:
            command += ["--platform", platform]
        subprocess.run([*command, *wanted()], check=True)
        installed = json.loads(report.read_text())["install"]
    return {
        one["metadata"]["name"].lower().replace("_", "-").replace(".", "-"): (
            one["metadata"]["version"],
            one["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for one in installed
    }


def main() -> None:
    """Resolve for every machine and write the file."""
    found: dict[tuple[str, str], set[str]] = {}
    for machine in PLATFORMS:
        for name, (version, digest) in resolved(machine).items():
            found.setdefault((name, version), set()).add(digest)
    lines = [
        f"# Written by deploy/lock.py for Python {python_version()}; pip install --require-hashes --no-deps -r it."
    ]
    for (name, version), digests in sorted(found.items()):
        lines.append(
            f"{name}=={version} " + " ".join(f"--hash=sha256:{digest}" for digest in sorted(digests))
        )
    LOCK.write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{LOCK}: {len(found)} packages\n")


if __name__ == "__main__":
    main()
