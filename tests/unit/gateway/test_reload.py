"""Files that say who may call: followed, guarded, and what they said before holds if a change cannot be read."""

import os

import pytest

from attributary.errors import InvalidArgumentError
from attributary.gateway.config import GatewayConfig
from attributary.gateway.reload import Watched, read_guarded
from attributary.gateway.tokens import read_owners
from attributary.gateway.transport import server_context, server_credentials


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("one\n")
    path.chmod(0o600)
    return path


def test_a_change_is_read_and_a_bad_one_is_not(path):
    watched = Watched(lambda: {*read_owners(path, "tokens_file")}, [path])
    before = watched.value
    path.write_text("one\ntwo\n")
    watched.refresh()
    assert len(watched.value) == 2
    assert before < watched.value
    for damage in (lambda: path.write_text("# nothing\n"), path.unlink):
        damage()
        watched.refresh()
        assert len(watched.value) == 2
    path.write_text("three\n")
    path.chmod(0o600)
    watched.refresh()
    assert len(watched.value) == 1


def test_a_file_is_replaced_by_renaming_as_orchestrators_do(path, tmp_path):
    watched = Watched(lambda: {*read_owners(path, "tokens_file")}, [path])
    (tmp_path / "new").write_text("two\n")
    os.utime(tmp_path / "new", ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
    (tmp_path / "new").chmod(0o600)
    before = watched.value
    (tmp_path / "new").replace(path)
    watched.refresh()
    assert watched.value != before


@pytest.mark.parametrize(
    "read", [lambda path: read_owners(path, "tokens_file"), lambda path: read_guarded(path, "tls_key")]
)
def test_a_file_that_anybody_may_write_is_refused(path, read):
    path.write_text("ada secret\n")
    path.chmod(0o666)
    with pytest.raises(InvalidArgumentError, match="can be changed by anybody"):
        read(path)
    path.chmod(0o644)
    assert read(path)


@pytest.mark.parametrize("make", [server_credentials, server_context])
def test_a_damaged_pem_is_named(tmp_path, make):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    cert.write_text("not a certificate")
    with pytest.raises(InvalidArgumentError, match="tls_cert: holds no PEM block of a certificate"):
        make(GatewayConfig(tls_cert=cert, tls_key=key))
    cert.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(InvalidArgumentError, match="is damaged, or does not belong to tls_key"):
        make(GatewayConfig(tls_cert=cert, tls_key=key))
