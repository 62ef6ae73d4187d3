"""A tritonserver in a container: the command that docker or podman runs it with."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.triton.templates import parameters_of

PROGRAMS: Final = ("docker", "podman")
# Where Triton's own images, and ours, keep backends.
_BACKEND: Final = "/opt/tritonserver/backends/faiss/libtriton_faiss.so"
_REMOVE_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Container:
    """An image and the program that runs it. `gpus` is docker's value ("all", "device=0"), None for a CPU."""

    program: Path
    image: str
    gpus: str | None = None
    mounts: tuple[Path, ...] = ()

    def command(
        self,
        name: str,
        repository: Path,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        faiss_backend: Path | None,
        package: Path,
    ) -> list[str]:
        """Return the command that runs tritonserver with `arguments` until it ends, as a container called `name`.

        Every path is mounted under its own name, for reading only: the repository, the bundles that its configs
        name, `package` (the folder that holds `attributary`) and `mounts`. Network and shared memory are the
        host's, so that ports, and regions of gateways beside it, are the same as without a container.
        """
        command = [str(self.program), "run", "--rm", "--init", "--name", name, "--network=host", "--ipc=host"]
        if self.gpus is not None:
            podman = self.program.name == "podman"
            devices = self.gpus.removeprefix("device=")
            command.append(f"--device=nvidia.com/gpu={devices}" if podman else f"--gpus={self.gpus}")
        shown = {repository, package, *bundles_of(repository), *(path.resolve() for path in self.mounts)}
        command += [f"--volume={path}:{path}:ro" for path in sorted(shown)]
        if faiss_backend is not None:
            command.append(f"--volume={faiss_backend.resolve()}:{_BACKEND}:ro")
        command += [f"--env={key}={value}" for key, value in environment.items()]
        return [*command, self.image, "tritonserver", *arguments]

    def remove(self, name: str) -> None:
        """End a container whose client was killed; nothing happens where it has gone by itself."""
        command = [str(self.program), "rm", "--force", name]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=_REMOVE_TIMEOUT_S, check=False)


def find_container(image: str, gpus: str | None = None, mounts: Sequence[Path] = ()) -> Container:
    """Return a way to run `image`: with docker, else podman. UnavailableError where neither is in PATH."""
    if not image or image.startswith("-") or any(sign.isspace() for sign in image):
        raise InvalidArgumentError("image", f"must be the name of an image, got {image!r}")
    for path in mounts:
        if not path.exists():
            raise InvalidArgumentError("mount", f"{path} does not exist")
    for program in PROGRAMS:
        found = shutil.which(program)
        if found:
            return Container(Path(found), image, gpus, tuple(mounts))
    raise UnavailableError(f"{image} needs docker or podman, and neither is in PATH")


def bundles_of(repository: Path) -> set[Path]:
    """Return the directories of bundles that the configs of a repository name."""
    configs = repository.glob("*/config.pbtxt")
    return {Path(bundle) for config in configs if (bundle := parameters_of(config).get("bundle"))}
