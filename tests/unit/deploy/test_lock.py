"""The lock that the image installs from is that of today's requirements; the bill of materials is that of the lock."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DEPLOY = Path(__file__).parents[3] / "deploy"
spec = importlib.util.spec_from_file_location("deploy_lock", DEPLOY / "lock.py")
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)


@pytest.fixture(scope="module")
def locked():
    """Name -> (version, hashes)."""
    lines = (DEPLOY / "requirements.lock").read_text().splitlines()[1:]
    found = {}
    for line in lines:
        name, version, digests = re.fullmatch(
            r"([a-z0-9-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)", line
        ).groups()
        found[name] = (version, digests.split(" --hash=sha256:")[1:])
    return found


def test_all_that_a_gateway_needs_is_locked_at_a_version_that_will_do(locked):
    for line in lock.wanted():
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate():
            assert one.specifier.contains(locked[canonicalize_name(one.name)][0]), line


def test_versions_are_those_of_the_constraints(locked):
    pins = dict(
        line.split("==") for line in (lock.ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    for name, (version, _) in locked.items():
        assert pinned.get(name, version) == version, f"{name}: run `make lock`"


def test_the_bill_of_materials_is_that_of_the_lock(locked):
    told = json.loads((DEPLOY / "sbom.json").read_text())["components"]
    assert {
        one["name"]: (one["version"], [digest["content"] for digest in one["hashes"]]) for one in told
    } == locked


def test_the_image_installs_from_it():
    image = (DEPLOY / "docker" / "gateway.Dockerfile").read_text()
    assert "--require-hashes --no-deps -r deploy/requirements.lock" in image
    assert "!deploy/requirements.lock" in (DEPLOY / "docker" / "gateway.Dockerfile.dockerignore").read_text()
