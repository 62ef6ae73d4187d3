"""What the road will cost, and what is missing, before anything is spent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from attributary_train.corpus.sources.captions import text_of
from attributary_train.corpus.sources.listing import Listing
from attributary_train.errors import CorpusError, OwnError

from .road import Request

# Denoiser passes, forward, that one of each stands for.
_BACKWARD = 3  # forward and backward together
_FACTORS = 30  # an item's part in the Fisher factors: five draws, twice over them
# A query's step is tried on so many items at every other timestep, about so many times (`teacher.abu`).
_PROBE_ITEMS, _TRIES = 96, 3
# Rows that a sampling pass is filled up to (`subject.sample`).
_SAMPLED = 32
# Rows that are left out and named.
_LISTED = 10
# What one GPU is taken to reach on such a denoiser in float32 with TF32, floating-point operations a second.
GPU_FLOPS = 3e13
KEPT_NOISE = 256 * 1024 * 1024  # bytes; `teacher.draws.MOST_KEPT_BYTES`, which would bring torch along
# Core seconds besides passes, as measured on the example of docs/own-generator.md: a program that starts with torch (of
# which the road with a checkpoint has seven, the other one) and all that start without; a picture that is read and
# squared, one through the untuned towers (twice on the way), a dozen changed copies of one too; and the export of a
# student's encoder, or of the untuned one with its int8 variant.
_START_S, _STARTS, _OTHER_STARTS_S = 7.5, 7, 5.0
_PICTURE_S, _TOWER_S, _COPIES_S = 0.02, 0.06, 0.18
_EXPORT_S, _UNTUNED_EXPORT_S = 30.0, 40.0
# Bytes of the untuned towers in the cache, of an encoder in student and in bundle (MiniLM's included where there is no
# checkpoint's), of a picture's features in the cache; and how much of their own size pictures take as they are kept.
_TOWERS, _ENCODER, _UNTUNED_ENCODER, _FEATURES, _KEPT = 104e6, 22e6, 135e6, 3 * 4 * 2768, 2.4


@dataclass(frozen=True)
class Plan:
    """items and captions: of the table; passes: of the denoiser by step; seconds_a_pass (of one core) and flops_a_pass:
    measured here; queries: of all splits; checkpoint_bytes: of its parts, and of the text
    tower that student and bundle take from it; inputs: digest of what the user brought, by
    names, sizes and times of change; left_out: rows of the table that no picture comes of,
    and why; notes: what else there is to know of the table."""

    items: int
    captions: int
    bytes_of_pictures: int
    passes: dict[str, int]
    seconds_a_pass: float
    flops_a_pass: float
    latent: tuple[int, int, int]
    text: tuple[int, int]
    workers: int
    timesteps: int
    queries: int
    checkpoint_bytes: int
    inputs: str
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Passes of all steps."""
        return sum(self.passes.values())

    @property
    def core_hours(self) -> float:
        """Of this machine: passes, pictures through towers, programs that start."""
        if not self.passes:
            towers = self.items * (_PICTURE_S + _COPIES_S)
            seconds = _START_S + _OTHER_STARTS_S + towers + _UNTUNED_EXPORT_S
        else:
            towers = self.items * (_PICTURE_S + 2 * _TOWER_S) + self.queries * 2 * _TOWER_S
            starts = _STARTS * _START_S + _OTHER_STARTS_S
            seconds = starts + towers + _EXPORT_S + self.total * self.seconds_a_pass
        return seconds / 3600

    @property
    def hours_here(self) -> float:
        """On this machine while nothing else runs: labels by all workers, the rest by one."""
        shared = self.passes.get("labels", 0) * self.seconds_a_pass / 3600
        return self.core_hours - shared + shared / self.workers

    @property
    def hours_gpu(self) -> float:
        """Of the passes on one GPU."""
        return self.total * self.flops_a_pass / GPU_FLOPS / 3600

    @property
    def disk_gb(self) -> float:
        """Pictures as they came, as they are embedded and as squares, latents and conditions, towers, encoders."""
        side = self.latent[-1] * 8
        values = self.items * (_size(self.latent) + _size(self.text))
        total = _KEPT * self.bytes_of_pictures + self.items * (3 * side**2 + _FEATURES) + 2 * values
        encoders = 2 * (_ENCODER if self.passes else _UNTUNED_ENCODER)
        return (total + self.checkpoint_bytes + _TOWERS + encoders) / 1e9

    @property
    def memory_gb(self) -> float:
        """Of each labelling worker: a small grid of noise; latents and conditions are mapped, in half precision."""
        values = self.items * _size(self.latent)
        noise = 4 * values * 2 * self.timesteps
        return ((noise if noise <= KEPT_NOISE else 0) + 2 * (values + self.items * _size(self.text))) / 1e9

    def lines(self) -> list[str]:
        """For a reader."""
        rows = [f"{self.items:,} pictures, {self.captions:,} different captions"]
        if self.left_out:
            more = len(self.left_out) - _LISTED
            rows.append(f"left out {len(self.left_out):,} rows of the table:")
            rows += [f"  {row}" for row in self.left_out[:_LISTED]] + [f"  and {more:,} more"] * (more > 0)
        rows += self.notes
        rows += [f"{name:<8} {count:>14,} passes of the denoiser" for name, count in self.passes.items()]
        if self.passes:
            rows.append(
                f"a pass takes {self.seconds_a_pass * 1e3:.1f} ms on one core here, {self.flops_a_pass / 1e9:.2f} GFLOP"
            )
        rows.append(
            f"hours    {self.hours_here:.2f} on this machine with {self.workers} workers; "
            f"{self.core_hours:.2f} of one core"
        )
        if self.passes:
            rows.append(
                f"         {self.hours_gpu:.2f} of passes on one GPU at {GPU_FLOPS / 1e12:.0f} TFLOP/s"
            )
            rows.append(f"memory   {self.memory_gb:.2f} GB in each worker that labels, most of it mapped")
        rows.append(f"disk     {self.disk_gb:.2f} GB below the folder of --out")
        return rows


def make_plan(request: Request) -> Plan:
    """Count and measure; raises `OwnError` naming what is missing or does not fit."""
    found_there = listed(request)
    files, captions = found_there.files, found_there.captions
    left_out, notes = tuple(found_there.left_out), tuple(found_there.notes)
    size = sum((request.pictures / name).stat().st_size for name in files)
    if request.checkpoint is None:
        if request.lora is not None:
            raise OwnError("--lora", "needs the --checkpoint that it was trained on")
        nothing = (0, 0, 0), (0, 0)
        return Plan(
            len(files),
            captions,
            size,
            {},
            0.0,
            0.0,
            *nothing,
            request.workers,
            0,
            0,
            0,
            _inputs(request, files),
            left_out,
            notes,
        )
    asking = [("validation", request.validation, 10), ("train", request.train, 1), ("test", request.test, 1)]
    for name, count, least in asking:
        if count < least:
            raise OwnError(f"--{name}", f"{count}; at least {least} queries of it are needed")
    from .checkpoint import measured

    found = measured(request)
    items, queries = len(files), request.queries
    columns = 2 * request.timesteps
    everything = request.nearest + request.outside in range(1, items)
    candidates = request.nearest + request.outside if everything else items
    every_other = [at for at in range(request.timesteps) if at % 2 == (1 if request.timesteps > 1 else 0)]
    probes = _TRIES * min(_PROBE_ITEMS, items) * 2 * len(every_other)
    passes = {
        "queries": -(-queries // _SAMPLED) * _SAMPLED * request.steps * 2,
        "factors": items * _FACTORS,
        "labels": items * columns
        + queries * (_BACKWARD * request.gradient_draws + columns * candidates + probes),
    }
    return Plan(
        items, captions, size, passes, found.seconds, found.flops, found.latent, found.text, request.workers,
        request.timesteps, queries, found.bytes, _inputs(request, files), left_out, notes,
    )  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """files: of the table that are there; captions: how many different ones; left_out: others, and why; notes on it."""

    files: list[str]
    captions: int
    left_out: list[str]
    notes: list[str]


def listed(request: Request) -> Listed:
    """Read the table as the corpus will; raises `OwnError` for one that cannot be read or names no picture."""
    if not request.pictures.is_dir():
        raise OwnError("--pictures", f"{request.pictures} is no folder")
    listing = Listing(request.pictures.resolve(), request.captions)
    files, captions, left_out, count = [], set(), [], 0
    try:
        for row in listing.rows():
            count += 1
            if row.problem is None:
                files.append(row.file)
                captions.add(text_of(row.facts["caption"]))
            else:
                left_out.append(f"{row.file}: {row.problem}")
    except CorpusError as error:
        raise OwnError("--captions", str(error)) from error
    if not files:
        raise OwnError(
            "--captions", f"none of the {count} files of {request.captions} is in {request.pictures}"
        )
    return Listed(files, len(captions), left_out, listing.notes())


def _inputs(request: Request, files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    brought = [request.pictures / name for name in files]
    brought += [path for path in (request.captions, request.prompts) if path is not None]
    for root in (request.checkpoint, request.lora):
        if root is not None:
            brought += sorted(path for path in [root, *root.rglob("*")] if path.is_file())
    for path in brought:
        facts = path.stat()
        digest.update(f"{path}\t{facts.st_size}\t{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _size(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
