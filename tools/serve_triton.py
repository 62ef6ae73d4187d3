"""Run a tritonserver on a bundle or a repository, for tests, benchmarks and a first try."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import click

from attributary.cli.main import run
from attributary.cli.options import Argument, Option, declared
from attributary.cli.triton import SettingsOptions
from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.triton.materialize import materialize
from tritonserver.container import find_container
from tritonserver.server import Ports, TritonServer


@click.command("serve_triton")
@declared
def serve_triton(
    *,
    repository: Annotated[Path | None, "a repository that is materialised already"] = None,
    bundle: Annotated[Path | None, "a bundle; a repository is made of it for this run"] = None,
    host: Annotated[str, ""] = "127.0.0.1",
    grpc_port: Annotated[int, "0 picks a free one"] = 8001,
    http_port: Annotated[int, ""] = 8000,
    metrics_port: Annotated[int, ""] = 8002,
    faiss_backend: Annotated[Path | None, "libtriton_faiss.so, for --index-backend faiss"] = None,
    ready_s: Annotated[float, "seconds to load all models at most"] = 120.0,
    exit_s: Annotated[float, "seconds at the end for requests under way"] = 30.0,
    log: Annotated[Path | None, "file for the server's log"] = None,
    image: Annotated[
        str | None,
        Option("run this image of Triton with docker or podman instead", env="ATTRIBUTARY_TRITON_IMAGE"),
    ] = None,
    gpus: Annotated[str | None, "GPUs that the container is given: all, device=0, ...; needs --image"] = None,
    mounts: Annotated[
        tuple[Path, ...],
        Option(
            "a folder that the container sees too, for bundles to be loaded later; may be repeated", "--mount"
        ),
    ] = (),
    server_options: Annotated[tuple[str, ...], Argument()] = (),
    settings: SettingsOptions,
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
            materialize(bundle, repository, settings)
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
