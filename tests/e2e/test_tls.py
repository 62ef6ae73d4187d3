"""TLS and mutual TLS, with certificates made on the spot."""

import contextlib
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request

import pytest

from attributary.client import ServerError, Tls
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


def test_certificates_and_tokens_are_read_again_when_they_change(start_server, pki, picture, tmp_path):
    cert, key, tokens = tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "tokens"
    for name, path in (("server.pem", cert), ("server.key", key)):
        shutil.copy(pki / name, path)
    tokens.write_text("old\n")
    config = {"tls_cert": str(cert), "tls_key": str(key), "tokens_file": str(tokens)}
    with start_server(config=config) as server:
        before = ssl.get_server_certificate(tuple(server.address.split(":")))
        with server.client(tls=Tls(ca=pki / "ca.pem"), token="old") as client:
            assert client.attribute(picture(3)).items[0].id == 1003
        # Half of a change serves nobody: the pair before holds.
        shutil.copy(pki / "client.pem", cert)
        time.sleep(1.1)  # files are looked at once a second, when somebody connects
        assert ssl.get_server_certificate(tuple(server.address.split(":"))) == before
        while "cannot be used" not in server.process.stderr.readline():
            pass
        shutil.copy(pki / "client.key", key)
        tokens.write_text("new\n")
        assert eventually(lambda: ssl.get_server_certificate(tuple(server.address.split(":"))) != before)

        def works(token):
            with server.client(tls=Tls(ca=pki / "ca.pem"), token=token) as client:
                return client.attribute(picture(3)).items[0].id == 1003

        assert eventually(lambda: works("new"))
        with pytest.raises(ServerError):
            works("old")


def eventually(check):
    for _ in range(200):
        with contextlib.suppress(OSError, ServerError, UnavailableError):
            if check():
                return True
        time.sleep(0.05)
    return False


def test_the_metrics_page_has_the_same_tls(start_server, pki):
    config = {
        "tls_cert": str(pki / "server.pem"),
        "tls_key": str(pki / "server.key"),
        "tls_client_ca": str(pki / "ca.pem"),
        "metrics_tls": True,
    }
    with start_server(config=config) as server:
        url = f"https://127.0.0.1:{server.metrics_port}/metrics"
        context = ssl.create_default_context(cafile=pki / "ca.pem")
        with pytest.raises(OSError):
            urllib.request.urlopen(url, context=context, timeout=20)
        context.load_cert_chain(pki / "client.pem", pki / "client.key")
        with urllib.request.urlopen(url, context=context, timeout=20) as reply:
            assert b"attributary_permits" in reply.read()


def test_every_verb_takes_a_client_certificate(start_server, pki, tiny_corpus_dir, tiny_bundle_dir, tmp_path):
    (tmp_path / "admins").write_text("ada secret\n")
    shutil.copytree(tiny_bundle_dir, tmp_path / "bundle")
    config = {
        "tls_cert": str(pki / "server.pem"),
        "tls_key": str(pki / "server.key"),
        "tls_client_ca": str(pki / "ca.pem"),
        "admin_tokens_file": str(tmp_path / "admins"),
    }
    pictures = tiny_corpus_dir / "pictures"
    mutual = ("--tls-ca", pki / "ca.pem", "--tls-cert", pki / "client.pem", "--tls-key", pki / "client.key")

    def run(*words):
        command = [sys.executable, "-m", "attributary.cli.main", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    with start_server(bundle=tmp_path / "bundle", config=config) as server:
        at = ("--address", server.address)
        for words in (
            ("query", pictures / "3.png", *at, "--json"),
            ("score", pictures, "--endpoint", server.address, "--out", tmp_path / "run"),
            ("bundle", "log", *at, "--token", "secret"),
        ):
            done = run(*words, *mutual)
            assert done.returncode == 0, done.stderr
        half = run("query", pictures / "3.png", *at, "--tls-cert", pki / "client.pem")
        assert half.returncode != 0
        assert "tls_cert: --tls-cert and --tls-key must be given together" in half.stderr


def test_files_that_cannot_be_read_are_named(start_server, pki, tmp_path):
    config = {"tls_cert": str(tmp_path / "none.pem"), "tls_key": str(pki / "server.key")}
    with pytest.raises(RuntimeError, match="tls_cert: cannot be read"), start_server(config=config):
        pass
    with pytest.raises(InvalidArgumentError, match=r"tls\.ca"):
        Tls(ca=tmp_path / "none.pem").credentials()
