"""Write bills of materials: deploy/sbom.json of the gateway's image, deploy/sbom-train.json of the training package.

    python deploy/sbom.py

CycloneDX 1.5. The image's has the files of deploy/requirements.lock with their SHA-256; the training package's has what
its requirements lead to in this environment. Licences are what each installed package says of itself.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DEPLOY, TRAIN = ROOT / "deploy", ROOT / "python" / "attributary_train"
LONG = 60  # characters: longer is a licence's text, not its name


def canonical(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(name: str) -> str:
    """What an installed package says its licence is; "not stated" where it says nothing."""
    try:
        told = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "not installed where this was written"
    if named := told.get("License-Expression"):
        return str(named)
    kinds = [
        one.rsplit(" :: ", 1)[1] for one in told.get_all("Classifier") or () if one.startswith("License ::")
    ]
    kinds = [kind for kind in kinds if kind != "OSI Approved"]
    if kinds:
        return " or ".join(sorted(kinds))
    stated = (told.get("License") or "").strip()
    return (
        stated
        if 0 < len(stated) <= LONG and "\n" not in stated
        else stated.split("\n", 1)[0][:LONG] or "not stated"
    )


def component(name: str, version: str, digests: list[str]) -> dict[str, Any]:
    """One package."""
    found: dict[str, Any] = {
        "type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}",
        "licenses": [{"license": {"name": licence(name)}}],
    }  # fmt: skip
    if digests:
        found["hashes"] = [{"alg": "SHA-256", "content": digest} for digest in digests]
    return found


def locked() -> list[dict[str, Any]]:
    """What the gateway's image installs."""
    found = []
    for line in (DEPLOY / "requirements.lock").read_text().splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("==")
            version, *digests = rest.split(" --hash=sha256:")
            found.append(component(name, version, digests))
    return found


def training() -> list[dict[str, Any]]:
    """What the training package's requirements lead to here."""
    project = tomllib.loads((TRAIN / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(one for extra in project.get("optional-dependencies", {}).values() for one in extra),
    ]
    for path in sorted(TRAIN.glob("requirements-*.txt")):
        asked += [
            line for line in path.read_text().splitlines() if line.strip() and not line.startswith(("#", "-"))
        ]
    waiting = [Requirement(line.split(" #")[0]) for line in asked]
    found: dict[str, dict[str, Any]] = {}
    while waiting:
        one = waiting.pop()
        name = canonical(one.name)
        if (
            name in found
            or name.startswith("attributary")
            or (one.marker and not one.marker.evaluate({"extra": ""}))
        ):
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = component(name, version, [])
        waiting += [Requirement(line) for line in metadata.requires(name) or ()]
    return [found[name] for name in sorted(found)]


def main() -> None:
    """Write both."""
    for path, name, components in (
        (DEPLOY / "sbom.json", "attributary-gateway", locked()),
        (DEPLOY / "sbom-train.json", "attributary-train", training()),
    ):
        told = {
            "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"component": {"type": "application", "name": name}},
            "components": components,
        }  # fmt: skip
        path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        sys.stdout.write(f"{path}: {len(components)} packages\n")


if __name__ == "__main__":
    main()
