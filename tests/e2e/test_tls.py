"""TLS and mutual TLS, with certificates made on the spot."""

import shutil
import subprocess

import pytest

from attributary.client import Tls
from attributary.errors import InvalidArgumentError, UnavailableError

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """A directory with ca, server and client certificates and keys."""
    home = tmp_path_factory.mktemp("pki")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(
        "req", "-x509", *key, "-subj", "/CN=test authority", "-keyout", home / "ca.key", "-out", home / "ca.pem"
    )  # fmt: skip
    (home / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(
            "req", *key[:-2], "-subj", f"/CN={name}", "-keyout", home / f"{name}.key", "-out", home / f"{name}.csr"
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", home / f"{name}.csr", "-CA", home / "ca.pem", "-CAkey", home / "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", home / "names", "-out", home / f"{name}.pem",
        )  # fmt: skip
    return home


def test_tls(start_server, pki, picture):
    config = {"tls_cert": str(pki / "server.pem"), "tls_key": str(pki / "server.key")}
    with start_server(config=config) as server:
        with server.client(tls=Tls(ca=pki / "ca.pem")) as client:
            assert client.attribute(picture(3)).items[0].id == 1003
        with server.client(timeout_s=5) as plain, pytest.raises(UnavailableError):
            plain.describe()


def test_mutual_tls(start_server, pki, picture):
    config = {
        "tls_cert": str(pki / "server.pem"),
        "tls_key": str(pki / "server.key"),
        "tls_client_ca": str(pki / "ca.pem"),
    }
    with start_server(config=config) as server:
        known = Tls(ca=pki / "ca.pem", cert=pki / "client.pem", key=pki / "client.key")
        with server.client(tls=known) as client:
            assert client.attribute(picture(3)).items[0].id == 1003
        with (
            server.client(tls=Tls(ca=pki / "ca.pem"), timeout_s=5) as stranger,
            pytest.raises(UnavailableError),
        ):
            stranger.describe()


def test_files_that_cannot_be_read_are_named(start_server, pki, tmp_path):
    config = {"tls_cert": str(tmp_path / "none.pem"), "tls_key": str(pki / "server.key")}
    with pytest.raises(RuntimeError, match="tls_cert: cannot be read"), start_server(config=config):
        pass
    with pytest.raises(InvalidArgumentError, match=r"tls\.ca"):
        Tls(ca=tmp_path / "none.pem").credentials()
