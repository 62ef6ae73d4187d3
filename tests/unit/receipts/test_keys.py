"""Key files: who may read them, how they rotate, and what is no key."""

import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attributary.errors import InvalidArgumentError
from attributary.receipts import keys


def test_a_new_key_is_its_owners_alone_and_is_never_overwritten(tmp_path):
    path = tmp_path / "keys.pem"
    made = keys.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.read_key_file(path).signer.public.key_id == made.public.key_id
    with pytest.raises(InvalidArgumentError, match="exists"):
        keys.create(path)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path, mode):
    path = tmp_path / "keys.pem"
    keys.create(path)
    path.chmod(mode)
    with pytest.raises(InvalidArgumentError, match="chmod 600"):
        keys.read_key_file(path)
    # As a set of public keys it may be read: only these halves are taken.
    assert len(keys.read_public_keys(path)) == 1
    path.chmod(0o640)
    keys.read_key_file(path)


def test_rotating_keeps_the_public_half_of_what_signed_before(tmp_path):
    path = tmp_path / "keys.pem"
    made = [keys.create(path), keys.rotate(path), keys.rotate(path)]
    found = keys.read_key_file(path)
    assert [key.key_id for key in found.public] == [key.public.key_id for key in reversed(made)]
    assert path.read_text().count("PRIVATE KEY-----") == 2  # one block, both of its ends
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    signature = made[0].sign(b"old")
    assert found.public[2].verifies(signature, b"old")
    assert not found.public[2].verifies(signature, b"new")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("cut", [3, 40, 130])
def test_a_file_that_was_cut_off_is_refused_and_not_rotated(tmp_path, cut):
    path = tmp_path / "keys.pem"
    keys.create(path)
    keys.rotate(path)
    keys.rotate(path)
    path.write_bytes(path.read_bytes().rstrip()[:-cut])
    for read in (keys.read_key_file, keys.read_public_keys, keys.rotate):
        with pytest.raises(InvalidArgumentError, match=r"not whole|no key that can be read"):
            read(path)


def test_a_block_within_the_file_that_has_no_end_is_refused(tmp_path):
    path = tmp_path / "keys.pem"
    keys.create(path)
    keys.rotate(path)
    text = path.read_text()
    for broken in (
        text.replace("-----END PRIVATE KEY-----\n", ""),
        text.replace("-----END PUBLIC KEY", "-----END KEY"),
    ):
        path.write_text(broken)
        with pytest.raises(InvalidArgumentError, match="not whole"):
            keys.read_key_file(path)


def test_two_rotations_at_once_lose_no_key(tmp_path, monkeypatch):
    path = tmp_path / "keys.pem"
    keys.create(path)
    new = keys.SigningKey.new

    def meanwhile():
        monkeypatch.setattr(keys.SigningKey, "new", new)
        with pytest.raises(InvalidArgumentError, match="being rotated by another"):
            keys.rotate(path)
        return new()

    monkeypatch.setattr(keys.SigningKey, "new", meanwhile)
    keys.rotate(path)
    assert len(keys.read_key_file(path).public) == 2

    replaced = keys.os.fstat

    def rotated_before(handle):
        monkeypatch.setattr(keys.os, "fstat", replaced)
        path.rename(path.with_suffix(".before"))
        path.write_bytes(path.with_suffix(".before").read_bytes())
        path.chmod(0o600)
        return replaced(handle)

    monkeypatch.setattr(keys.os, "fstat", rotated_before)
    with pytest.raises(InvalidArgumentError, match="just now"):
        keys.rotate(path)


def test_openssl_makes_and_reads_these_files(tmp_path):
    path = tmp_path / "keys.pem"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    if made:
        pytest.skip("this openssl knows no Ed25519")
    path.chmod(0o600)
    key = keys.read_key_file(path).signer
    read = subprocess.run(["openssl", "pkey", "-pubin", "-text", "-noout"], input=key.public.pem(), text=True,
                          capture_output=True, check=True)  # fmt: skip
    assert key.public.raw.hex() in "".join(read.stdout.split()).replace(":", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no keys"),
        ("nothing", "holds no keys"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is no key that can be read"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is no key that can be read"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path, text, said):
    path = tmp_path / "keys.pem"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidArgumentError, match=said):
        keys.read_key_file(path)


def test_keys_of_another_kind_and_files_without_a_private_one(tmp_path):
    path = tmp_path / "keys.pem"
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(other)
    path.chmod(0o600)
    with pytest.raises(InvalidArgumentError, match="no Ed25519 key"):
        keys.read_key_file(path)
    path.write_text(keys.SigningKey.new().public.pem())
    with pytest.raises(InvalidArgumentError, match="no Ed25519 private key"):
        keys.read_key_file(path)
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        keys.read_key_file(tmp_path / "none")
    with pytest.raises(InvalidArgumentError, match="must be a file"):
        keys.read_public_keys(tmp_path)
