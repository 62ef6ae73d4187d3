"""Several bundles behind `attributary serve`, and the verbs that change which."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attributary.attribution.open import open_engine
from attributary.cli.process import ServerProcess
from attributary.cli.serve import _by_alias
from attributary.client import Client
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError


def run(*arguments, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "attributary.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ATTRIBUTARY_ADMIN_TOKEN": "s3cret"},
    )
    assert done.returncode == status, done.stderr
    return done


def test_two_bundles_from_the_command_line_to_the_last_alias(tiny_bundle_dir, tmp_path, picture):
    for name in ("one", "two"):
        shutil.copytree(tiny_bundle_dir, tmp_path / name)
    with Store(tmp_path / "two", open_engine) as store:
        store.delete(Selection(ids=(1000,)), who="kim", why="x")
        store.compact(who="kim", why="x")
    (tmp_path / "admins").write_text("kim s3cret\n")
    (tmp_path / "picture.png").write_bytes(picture(3))
    arguments = (f"b={tmp_path / 'two'}", "--default", "b", "--admin-tokens-file", str(tmp_path / "admins"))
    with ServerProcess(Path(f"a={tmp_path / 'one'}"), *arguments) as server, Client(server.address) as client:
        first, second = client.describe(bundle_id="a"), client.describe(bundle_id="b")
        assert client.describe().bundle_id == second.bundle_id != first.bundle_id
        at = ("--address", server.address)
        asked = json.loads(run("query", tmp_path / "picture.png", *at, "--bundle", "a", "--json").stdout)
        assert asked["bundle_id"] == first.bundle_id

        run("bundle", "delete", *at, "--alias", "a", "--id", 1001, "--why", "x")
        assert client.describe(bundle_id="a").item_count == 299
        assert len(run("bundle", "log", *at, "--alias", "a", "--json").stdout.splitlines()) == 1
        turned = json.loads(run("bundle", "alias", "c", "a", *at, "--why", "x", "--json").stdout)
        assert turned == {"bundle_id": first.bundle_id, "replaced": ""}
        assert "serves" in run("bundle", "alias", "b", "a", *at, "--why", "x", "--pinned-s", 0).stdout
        loaded = run("bundle", "load", "two", *at, "--alias", "b", "--why", "x", "--json").stdout
        assert json.loads(loaded) == {"bundle_id": second.bundle_id, "replaced": first.bundle_id}
        assert "is the default" in run("bundle", "unload", "b", *at, "--why", "x", status=2).stderr
        told = json.loads(run("bundle", "served", *at, "--json").stdout)
        assert told["default_alias"] == "b"
        assert {tuple(bundle["aliases"]) for bundle in told["bundles"]} == {("b",), ("a", "c")}
        lines = run("bundle", "served", *at).stdout.splitlines()
        # What `b` led to was without item 1000, so it did not come back under that alias.
        assert any(
            line.startswith(f"{first.bundle_id}  a, c  serving  revision 2  298 items") for line in lines
        )
        run("bundle", "unload", "a", *at, "--why", "x")
        assert "draining" in json.dumps(json.loads(run("bundle", "served", *at, "--json").stdout))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("a=x", "y"), "ALIAS=DIRECTORY, got y"),
        (("a=x", "a=y"), "a is given twice"),
        (("a b=x", "c=y"), "alias"),
        (("00000000000000aa=x", "c=y"), "no bundle's id"),
    ],
)
def test_wrong_bundles_of_the_command_line(given, words):
    with pytest.raises(InvalidArgumentError, match=words):
        _by_alias(tuple(map(Path, given)))


def test_one_directory_needs_no_alias(tmp_path):
    assert _by_alias((Path("x"),)) == {"default": Path("x")}
    (tmp_path / "a=b").mkdir()
    assert _by_alias((tmp_path / "a=b",)) == {"default": tmp_path / "a=b"}
    assert _by_alias((Path("a=x"),)) == {"a": Path("x")}


def test_an_unknown_default_is_refused(tiny_bundle_dir):
    assert "must be one of a" in run("serve", f"a={tiny_bundle_dir}", "--default", "b", status=2).stderr
