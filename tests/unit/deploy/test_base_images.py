"""Every image that somebody else makes is named with its digest."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
OURS = re.compile(r"attributary-\w+(:|$)")
PINNED = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")


def tracked(*patterns):
    found = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in found.stdout.split()]


def of_dockerfile(text):
    """What a Dockerfile's builder, stages and copies come from, but its own stages and empty ones."""
    values = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    filled = re.sub(r"\$\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)
    stages = set(re.findall(r"^FROM .* AS (\S+)$", filled, re.MULTILINE | re.IGNORECASE))
    named = re.findall(r"^(?:# *syntax=|FROM +(?:--\S+ +)*)(\S+)", filled, re.MULTILINE | re.IGNORECASE)
    named += re.findall(r"^(?:COPY|ADD) .*--from=(\S+)", filled, re.MULTILINE | re.IGNORECASE)
    return {name for name in named if name not in stages | {"scratch"} and not name.isdecimal()}


def of_yaml(value):
    """Every `image: text` in it, however deep; an `image` of a chart's values by its parts."""
    if isinstance(value, list):
        return {name for one in value for name in of_yaml(one)}
    if not isinstance(value, dict):
        return set()
    found = {name for key, one in value.items() if key != "image" for name in of_yaml(one)}
    image = value.get("image")
    if isinstance(image, dict) and "repository" in image:
        return found | {":".join(filter(None, (image["repository"], str(image.get("tag") or ""))))}
    return found | ({image} if isinstance(image, str) else of_yaml(image))


def images():
    found = {}
    for path in tracked("*Dockerfile*", "*Containerfile*"):
        if path.suffix != ".dockerignore":
            found |= dict.fromkeys(of_dockerfile(path.read_text()), path)
    for path in tracked("*.yaml", "*.yml"):
        if "templates" not in path.parts:  # of a chart; these take their images from its values
            for document in yaml.safe_load_all(path.read_text()):
                found |= dict.fromkeys(of_yaml(document), path)
    return {name: path for name, path in found.items() if not OURS.match(name)}


def test_each_has_a_digest():
    found = images()
    assert len(found) >= 6
    for name, path in found.items():
        assert PINNED.fullmatch(name), f"{name} in {path.name} has no digest"


@pytest.mark.parametrize(
    ("release", "built"), [("25.08", True), ("25.06", False), ("25.0", False), ("", False)]
)
def test_an_image_of_another_release_than_its_tag_says_is_not_built_upon(release, built):
    text = (ROOT / "deploy/docker/triton.Dockerfile").read_text()
    tag = re.search(r"^ARG TRITON=(\S+)$", text, re.MULTILINE)[1]
    check = re.search(r"^ARG TRITON\nRUN (case .*?esac)$", text, re.MULTILINE | re.DOTALL)[1]
    environment = {"TRITON": tag, "NVIDIA_TRITON_SERVER_VERSION": release}
    done = subprocess.run(["sh", "-ec", check], env=environment, capture_output=True, check=False)
    assert (done.returncode == 0) == built


def test_charts_templates_name_no_image_of_their_own():
    for path in tracked("deploy/helm/**/templates/*"):
        for line in re.findall(r"^\s*image:.*$", path.read_text(), re.MULTILINE):
            assert "{{" in line, f"{path.name}: {line}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM --platform=linux/amd64 a:1 AS one\nFROM one\nCOPY --from=one /x /x\n", {"a:1"}),
        (
            "ARG TAG=2@sha256:00\nFROM b:${TAG}\nCOPY --from=c:3 /x /x\nFROM scratch\n",
            {"b:2@sha256:00", "c:3"},
        ),
        ("# syntax=docker/dockerfile:1\nFROM d\n", {"docker/dockerfile:1", "d"}),
    ],
)
def test_what_a_dockerfile_comes_from_is_found(text, expected):
    assert of_dockerfile(text) == expected
    assert of_yaml({"a": [{"image": "e:1"}], "b": {"image": {"repository": "f", "tag": ""}}}) == {"e:1", "f"}
