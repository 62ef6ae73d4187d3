"""`attributary triton`: fill a repository from a bundle, run a tritonserver, swap bundles under load."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.triton.container import find_container
from attributary.triton.materialize import Settings, materialize
from attributary.triton.server import Ports, TritonServer

_DEFAULT = Settings()
_HELP = {
    "max_batch": "queries of one request at most, and of one dynamic batch",
    "encoder_instances": "encoder models side by side; 0 is one a core, or one on a GPU",
    "encoder_threads": "cores that one encoder call uses (CPU)",
    "encoder_batch": "pictures that are encoded together at best (CPU)",
    "queue_delay_us": "how long Triton waits for a batch to fill, microseconds",
    "queue_timeout_us": "how long a request may wait in Triton's queue, microseconds; 0 is for ever",
    "max_queue": "requests that wait in Triton's queue at most; 0 is any number",
}
# What others add to this group: a verb and where its command is.
_ELSEWHERE = {"build-engine": ("attributary.cli.build_engine", "build_engine_command")}


class _Group(click.Group):
    """Verbs of other modules are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *(verb for verb in _ELSEWHERE if self.get_command(ctx, verb))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, name = _ELSEWHERE[cmd_name]
        try:
            command = getattr(importlib.import_module(module), name)
        except ImportError:
            return None
        assert isinstance(command, click.Command)
        return command


@click.group("triton", cls=_Group)
def triton_group() -> None:
    """Serve with NVIDIA Triton."""


def _settings(command: Any) -> Any:
    for name in reversed(list(_HELP)):
        default = getattr(_DEFAULT, name)
        option = "--" + name.replace("_", "-")
        command = click.option(option, name, type=int, default=default, show_default=True, help=_HELP[name])(
            command
        )
    for option, choices, text in (
        ("--precision", ["fp32", "int8"], "which of the bundle's encoders a CPU runs"),
        (
            "--index-backend",
            ["python", "faiss"],
            "the Python model, or the C++ backend of kernels/triton_faiss",
        ),
        ("--target", ["cpu", "gpu"], "where encoder and index run"),
    ):
        default = getattr(_DEFAULT, option[2:].replace("-", "_"))
        choice = click.Choice(choices)
        command = click.option(option, type=choice, default=default, show_default=True, help=text)(command)
    for option, text in (
        ("--served-path", "the bundle's directory as Triton sees it, where it sees it elsewhere"),
        ("--plan", "a TensorRT engine of the bundle's encoder (GPU)"),
    ):
        path = click.Path(path_type=Path) if option == "--plan" else None
        command = click.option(option, type=path, default=None, help=text)(command)
    return command


def _to_settings(given: dict[str, Any]) -> Settings:
    return Settings(**{entry.name: given[entry.name] for entry in fields(Settings)})


@triton_group.command("materialize")
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="the model repository")
@_settings
def materialize_command(bundle: Path, out: Path, **given: Any) -> None:
    """Write the models of a BUNDLE into a repository, and point its aliases to them. Verifies the bundle first."""
    bundle_id = materialize(bundle, out, _to_settings(given))
    click.echo(json.dumps({"bundle_id": bundle_id, "repository": str(out)}))


@triton_group.command("serve")
@click.option(
    "--repository", type=click.Path(path_type=Path), help="a repository that is materialised already"
)
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="a bundle; a repository is made of it for this run"
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--grpc-port", type=int, default=8001, show_default=True, help="0 picks a free one")
@click.option("--http-port", type=int, default=8000, show_default=True)
@click.option("--metrics-port", type=int, default=8002, show_default=True)
@click.option(
    "--faiss-backend", type=click.Path(path_type=Path), help="libtriton_faiss.so, for --index-backend faiss"
)
@click.option(
    "--ready-s", type=float, default=120.0, show_default=True, help="seconds to load all models at most"
)
@click.option(
    "--exit-s",
    type=float,
    default=30.0,
    show_default=True,
    help="seconds at the end for requests under way",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    help="file for the server's log",
)
@click.option(
    "--image",
    envvar="ATTRIBUTARY_TRITON_IMAGE",
    help="run this image of Triton with docker or podman instead",
)
@click.option("--gpus", help="GPUs that the container is given: all, device=0, ...; needs --image")
@click.option(
    "--mount",
    "mounts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="a folder that the container sees too, for bundles to be loaded later; may be repeated",
)
@click.argument("server_options", nargs=-1, type=click.UNPROCESSED)
@_settings
def serve_command(
    repository: Path | None,
    bundle: Path | None,
    host: str,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    faiss_backend: Path | None,
    ready_s: float,
    exit_s: float,
    log: Path | None,
    image: str | None,
    gpus: str | None,
    mounts: tuple[Path, ...],
    server_options: tuple[str, ...],
    **given: Any,
) -> None:
    """Run a tritonserver until SIGTERM: one in PATH, or the nvidia-pytriton wheel's, fetched into a cache folder.

    With --image it is a container's. One JSON line on standard output says when every model is ready. What follows
    -- is given to tritonserver as it is.
    """
    if image is None and (gpus is not None or mounts):
        raise InvalidArgumentError("image", "--gpus and --mount are a container's; give --image")
    container = None if image is None else find_container(image, gpus, mounts)
    if (repository is None) == (bundle is None):
        raise InvalidArgumentError("repository", "give either --repository or --bundle")
    with tempfile.TemporaryDirectory(prefix="attributary-repository-") as scratch:
        if bundle is not None:
            repository = Path(scratch) / "repository"
            materialize(bundle, repository, _to_settings(given))
        assert repository is not None
        server = TritonServer(
            repository,
            ports=Ports(host, grpc_port, http_port, metrics_port),
            faiss_backend=faiss_backend,
            container=container,
            extra=server_options,
            ready_s=ready_s,
            exit_s=exit_s,
            log=log,
        )
        sys.exit(_run(server))


def _run(server: TritonServer) -> int:
    stopping = False

    def forward(number: int, _: Any) -> None:
        nonlocal stopping
        stopping = True
        server.send(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    try:
        server.start()
        try:
            server.wait_until_ready()
        except UnavailableError:
            if stopping:
                return 0
            raise
        ports = server.ports
        click.echo(
            json.dumps({"ready": True, "grpc": ports.grpc, "http": ports.http, "metrics": ports.metrics})
        )
        status = server.wait()
        if stopping:
            return 0
        raise UnavailableError(f"tritonserver ended with status {status}: {server.last_words()}")
    finally:
        server.stop()


@triton_group.command("load")
@click.option("--url", default="127.0.0.1:8001", show_default=True, help="host:port of Triton's gRPC service")
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option(
    "--repository", type=click.Path(path_type=Path), required=True, help="the one that Triton runs on"
)
@click.option(
    "--retire-after-s",
    type=float,
    default=30.0,
    show_default=True,
    help="seconds for gateways to move on before the old bundle is unloaded",
)
@click.option("--keep", is_flag=True, help="leave the bundle before loaded")
@_settings
def load_command(
    url: str, bundle: Path, repository: Path, retire_after_s: float, keep: bool, **given: Any
) -> None:
    """Serve another BUNDLE without a failed request.

    It is materialised and loaded beside the old one, the aliases change, and the old one is unloaded. If the new one
    cannot be loaded, the old one goes on and its aliases are put back.
    """
    from attributary.triton.swap import swap

    grace = None if keep else retire_after_s
    bundle_id = swap(url, bundle, repository, _to_settings(given), retire_after_s=grace)
    click.echo(json.dumps({"bundle_id": bundle_id, "repository": str(repository)}))
