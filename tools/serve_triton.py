"""Run a tritonserver on a bundle or a repository, for tests, benchmarks and a first try."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from attributary.cli.main import run
from attributary.cli.triton import settings_options, to_settings
from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.triton.materialize import materialize
from tritonserver.container import find_container
from tritonserver.server import Ports, TritonServer


@click.command("serve_triton")
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
@settings_options
def serve_triton(
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
            materialize(bundle, repository, to_settings(given))
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


if __name__ == "__main__":
    run(serve_triton)
