"""From a bundle to what Triton loads: configs filled from templates, a warm-up query."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from attributary.attribution.open import open_engine
from attributary.bundle.bundle import ENCODER, INDEX, VECTORS, Bundle
from attributary.bundle.files import new_directory, write_whole
from attributary.errors import BundleError, InvalidArgumentError, check_range
from attributary.machine import cores
from attributary.triton.plans import check_plan

from . import templates
from .templates import ALIASES, model_name

Target = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How the models are to be run; of some fields the words are those of `attributary triton --help`."""

    plan: Annotated[Path | None, "a TensorRT engine of the bundle's encoder (GPU)"] = None
    # Where that is another machine.
    served_path: Annotated[
        str | None, "the bundle's directory as Triton sees it, where it sees it elsewhere"
    ] = None
    target: Annotated[Target, "where encoder and index run"] = "cpu"
    index_backend: Annotated[
        Literal["python", "faiss"], "the Python model, or the C++ backend of kernels/triton_faiss"
    ] = "python"
    # A GPU's is the engine's own.
    precision: Annotated[Literal["fp32", "int8"], "which of the bundle's encoders a CPU runs"] = "fp32"
    max_batch: Annotated[int, "queries of one request at most, and of one dynamic batch"] = 32
    encoder_instances: Annotated[int, "encoder models side by side; 0 is one a core, or one on a GPU"] = 0
    encoder_threads: Annotated[int, "cores that one encoder call uses (CPU)"] = 1
    encoder_batch: Annotated[int, "pictures that are encoded together at best (CPU)"] = 8
    queue_delay_us: Annotated[int, "how long Triton waits for a batch to fill, microseconds"] = 0
    # See docs/triton.md before setting one of these two.
    queue_timeout_us: Annotated[
        int, "how long a request may wait in Triton's queue, microseconds; 0 is for ever"
    ] = 0
    max_queue: Annotated[int, "requests that wait in Triton's queue at most; 0 is any number"] = 0

    def __post_init__(self) -> None:
        for name in ("max_batch", "encoder_threads", "encoder_batch"):
            check_range(name, getattr(self, name), 1)
        for name in ("encoder_instances", "queue_delay_us", "queue_timeout_us", "max_queue"):
            check_range(name, getattr(self, name), 0)
        if self.plan is not None and self.target != "gpu":
            raise InvalidArgumentError("plan", "is a GPU's; give --target gpu")


def materialize(directory: Path | str, repository: Path | str, settings: Settings | None = None) -> str:
    """Write the models of a bundle into a repository and point its aliases to them; return the bundle's id.

    The bundle is opened and its golden queries are checked first, so an unverified one raises BundleError and nothing
    is written. Additions and deletions since its build are the gateway's to apply. A repository that holds other
    bundles keeps them, and a running server goes on with what it has loaded. Every file appears whole; the aliases,
    which name the models, are replaced last. Raises UnavailableError without the extra `triton`.
    """
    settings = settings or Settings()
    # The embedded engine says why a golden query fails; an ensemble in Triton does not.
    bundle = open_engine(directory, precision=settings.precision).bundle
    if settings.plan is not None:
        check_plan(settings.plan, bundle.manifest.encoder.digest, settings.max_batch)
    values, bundle_id = _values(bundle, settings), bundle.manifest.bundle_id
    paths = {
        "encoder": f"encoder/{_encoder_template(settings)}",
        "index": "index/config.pbtxt",
        "attribution": "attribution/config.pbtxt",
    }
    configs = {
        part: templates.fill(path, values | {"name": model_name(part, bundle_id)})
        for part, path in paths.items()
    }
    aliases = {
        part: templates.alias(configs[part], part, model_name(part, bundle_id))
        for part in ("encoder", "index")
    }
    # The way most queries take: the same two steps, not a step around them.
    aliases["attribution"] = templates.fill(paths["attribution"], values | {"name": "attribution"})
    repository = Path(repository)
    repository.mkdir(parents=True, exist_ok=True)
    files: dict[str, Mapping[str, Path | bytes]] = {
        "encoder": _encoder_files(bundle, settings), "index": _index_files(bundle, settings), "attribution": {}
    }  # fmt: skip
    for part, config in configs.items():
        _write_model(repository, model_name(part, bundle_id), config, files[part])
    for part, config in aliases.items():
        _write_alias(repository, part, config)
    return bundle_id


def remove(repository: Path | str, bundle_id: str) -> None:
    """Delete a bundle's own models from a repository; its aliases must name another's, or InvalidArgumentError."""
    repository = Path(repository)
    if served_bundle(repository) == bundle_id:
        raise InvalidArgumentError(
            "bundle_id", f"{bundle_id} is what the repository's aliases name; load another one first"
        )
    for part in ALIASES:
        shutil.rmtree(repository / model_name(part, bundle_id), ignore_errors=True)


def served_bundle(repository: Path | str) -> str | None:
    """Return the id of the bundle that the aliases of a repository name, None if there are none."""
    config = Path(repository) / "attribution" / "config.pbtxt"
    return templates.parameters_of(config).get("bundle_id") if config.is_file() else None


def _values(bundle: Bundle, settings: Settings) -> dict[str, object]:
    manifest = bundle.manifest
    served = Path(settings.served_path or bundle.directory.resolve())
    encoder = _encoder_file(bundle, settings)
    return {
        "bundle": served,
        "bundle_id": manifest.bundle_id,
        "encoder": model_name("encoder", manifest.bundle_id),
        "index": model_name("index", manifest.bundle_id),
        "backend": settings.index_backend,
        "kind": "KIND_GPU" if settings.target == "gpu" else "KIND_CPU",
        "max_batch": settings.max_batch,
        "dim": manifest.encoder.dim,
        "size": manifest.encoder.image_size,
        "max_tokens": manifest.encoder.max_tokens,
        "items": manifest.item_count,
        "filter_bytes": (manifest.item_count + 7) // 8,
        "nprobe": manifest.index.nprobe,
        "candidates": manifest.index.candidates,
        "model": served / encoder,
        "sha256_model": manifest.files[encoder],
        "sha256_index": manifest.files[INDEX],
        "sha256_vectors": manifest.files[VECTORS],
        "threads": settings.encoder_threads,
        "instances": settings.encoder_instances or (1 if settings.target == "gpu" else cores()),
        "preferred_batch": min(settings.encoder_batch, settings.max_batch),
        "queue_delay_us": settings.queue_delay_us,
        "queue_policy": _queue_policy(settings),
    }


def _queue_policy(settings: Settings) -> templates.Block:
    if not settings.queue_timeout_us and not settings.max_queue:
        # The gateway's permits and callers' deadlines bound them.
        return templates.Block("# No limit on this queue.")
    limits = {"queue_timeout_us": settings.queue_timeout_us, "max_queue": settings.max_queue}
    return templates.Block(templates.fill("queue_policy.pbtxt", limits))


def _encoder_file(bundle: Bundle, settings: Settings) -> str:
    if settings.precision == "fp32":
        return ENCODER
    path = bundle.int8_encoder_path
    if path is None:
        raise BundleError("encoder.int8.onnx", "is not in this bundle; take fp32")
    return path.name


def _encoder_template(settings: Settings) -> str:
    if settings.target == "cpu":
        return "config.python.pbtxt"
    return "config.tensorrt.pbtxt" if settings.plan is not None else "config.onnxruntime.pbtxt"


def _encoder_files(bundle: Bundle, settings: Settings) -> dict[str, Path | bytes]:
    if settings.target == "cpu":
        return {"1/model.py": templates.folder() / "encoder/1/model.py"}
    return {"1/model.plan": settings.plan} if settings.plan else {"1/model.onnx": bundle.encoder_path}


def _index_files(bundle: Bundle, settings: Settings) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {"warmup/embedding": bundle.golden.embeddings[0].astype("<f4").tobytes()}
    if settings.index_backend == "python":
        files["1/model.py"] = templates.folder() / "index/1/model.py"
    return files


def _write_model(repository: Path, name: str, config: str, files: Mapping[str, Path | bytes]) -> None:
    """Write a model's folder, whole: its config and its files by their places in it, copied or as they are given."""
    with new_directory(repository / name, force=True) as scratch:
        (scratch / "1").mkdir()
        for place, source in files.items():
            (scratch / place).parent.mkdir(exist_ok=True)
            if isinstance(source, bytes):
                (scratch / place).write_bytes(source)
            else:
                shutil.copyfile(source, scratch / place)
        (scratch / "config.pbtxt").write_text(config, encoding="utf-8")


def _write_alias(repository: Path, name: str, config: str) -> None:
    """Replace one config file in place: the folder keeps its name, so no reader ever finds it missing."""
    if not (repository / name).is_dir():
        _write_model(repository, name, config, {})
        return
    write_whole(repository / name / "config.pbtxt", config.encode())
