"""`attributary receipts ...`: keys that sign, keys that verify, signed runs and proofs of their rows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeAlias

import click

from attributary.bundle.bundle import Bundle
from attributary.client.sync import Client
from attributary.errors import InvalidArgumentError, PreconditionError, needs
from attributary.files import read_file, write_file
from attributary.plain import json_line, plain

from .options import Argument, ClientTls, Json, Option, declared

with needs("receipts"):
    from attributary.receipts import keys


PathWord: TypeAlias = Annotated[Path, Argument()]


@click.group("receipts")
def receipts_group() -> None:
    """Keys of signed answers, signed runs, proofs of their rows. `attributary verify-receipt` checks them."""


@receipts_group.command("new-key")
@declared
def new_key_command(file: PathWord) -> None:
    """Make FILE, a new Ed25519 key that signs; only its owner may read it."""
    click.echo(f"{plain(str(file))}: key {keys.create(file).public.key_id}")


@receipts_group.command("rotate-key")
@declared
def rotate_key_command(file: PathWord) -> None:
    """Put a new key first in FILE. The one before signs no more, and its receipts still verify.

    A server that reads FILE signs with the new key within about a second.
    """
    click.echo(f"{plain(str(file))}: key {keys.rotate(file).public.key_id}")


@receipts_group.command("keys")
@declared
def keys_command(
    *,
    file: Annotated[Path | None, Argument()] = None,
    address: Annotated[str, "host:port of a server, in place of FILE"] = "",
    token: Annotated[str | None, "bearer token of that server"] = None,
    tls: ClientTls,
    as_json: Json = False,
) -> None:
    """Print the public keys of FILE, or of the server at --address, as PEM: what `verify-receipt --keys` takes.

    The first one signs; the others did.
    """
    if (file is None) == (not address):
        raise InvalidArgumentError("file", "either FILE or --address must be given")
    if file is not None:
        found = [(key.key_id, key.pem()) for key in keys.read_public_keys(file, "file").values()]
    else:
        with Client(address, tls=tls, token=token) as client:
            found = [(key.key_id, key.pem) for key in client.list_receipt_keys()]
        if not found:
            raise PreconditionError("receipts", f"the server at {address} signs none")
    if as_json:
        click.echo(json_line({"keys": [{"key_id": key_id, "pem": pem} for key_id, pem in found]}))
        return
    for key_id, pem in found:
        # Readers of PEM skip what is between the blocks.
        click.echo(f"key {plain(key_id)}")
        click.echo("\n".join(plain(line) for line in pem.splitlines()))


@receipts_group.command("sign-run")
@declared
def sign_run_command(
    run: PathWord,
    key_file: Annotated[Path, Option("PEM; the first private key signs", "--receipt-key-file")],
    bundle: Annotated[Path | None, "the run's bundle, for its model and calibration"] = None,
) -> None:
    """Sign the summary of a finished RUN and a Merkle root over its rows: RUN/receipt.json."""
    click.echo(f"wrote {plain(str(sign(run, key_file, bundle)))}")


@receipts_group.command("prove")
@declared
def prove_command(
    run: PathWord,
    generation_id: Annotated[str, Argument()],
    out: Annotated[Path | None, "default: GENERATION_ID.proof.json in this folder"] = None,
) -> None:
    """Prove that GENERATION_ID was answered in a signed RUN, and how: a file for `verify-receipt`."""
    from attributary.batch.signing import prove_row

    data = prove_row(run, generation_id)
    target = out or Path(f"{file_stem(generation_id)}.proof.json")
    write_file(target, data)
    click.echo(f"wrote {plain(str(target))}")


@receipts_group.command("embed")
@declared
def embed_command(
    picture: PathWord,
    receipt: Annotated[Path, "of this picture"],
    cert: Annotated[Path, "PEM: the signer's certificate and those above it"],
    key: Annotated[Path, "PEM: the signer's private key; not that of receipts"],
    out: Annotated[Path, "the picture with Content Credentials"],
) -> None:
    """Write PICTURE with Content Credentials (C2PA) that hold its receipt; its pixels stay as they are."""
    credentials = _credentials()
    assertion = credentials.attribution(read_file(receipt, "receipt"))
    data = credentials.add_credentials(
        read_file(picture, "picture"), [assertion], read_file(cert, "cert"), read_file(key, "key")
    )
    write_file(out, data)
    click.echo(f"wrote {plain(str(out))}")


@receipts_group.command("extract")
@declared
def extract_command(picture: PathWord, out: Annotated[Path, "the receipt, for `verify-receipt`"]) -> None:
    """Write the receipt in PICTURE's Content Credentials to a file. It is not verified."""
    write_file(out, _credentials().read_receipt(read_file(picture, "picture")))
    click.echo(f"wrote {plain(str(out))}")


def _credentials() -> ModuleType:
    with needs("c2pa"):
        from attributary.receipts import credentials
    return credentials


def check_key_file(key_file: Path) -> None:
    """Raise InvalidArgumentError for a file that cannot sign."""
    keys.read_key_file(key_file)


def sign(run: Path, key_file: Path, bundle: Path | None) -> Path:
    """Sign a run with the keys of a file."""
    from attributary.batch.signing import sign_run
    from attributary.receipts.statement import bundle_facts

    facts: dict[str, Any] | None = None
    if bundle is not None:
        facts = bundle_facts(Bundle.open(bundle, verify=False).manifest)
    return sign_run(run, keys.read_key_file(key_file), facts)


def file_stem(name: str) -> str:
    """A name that any text can be stored under: nothing of it is a directory."""
    return (
        "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in name).lstrip(".")[:120] or "row"
    )
