"""What the road will cost, and what is missing, before anything is spent."""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import OwnError
from .road import Request

# U-Net passes, forward, that one of each stands for.
_BACKWARD = 3  # forward and backward together
_FACTORS = 30  # an item's part in the Fisher factors: five draws, twice over them
_PROBES = 200  # a try at the size of a query's step
_TRIES = 3
# What one GPU is taken to reach on such a U-Net in float32 with TF32, floating-point operations a second.
GPU_FLOPS = 3e13
KEPT_NOISE = 256 * 1024 * 1024  # bytes; `teacher.draws.MOST_KEPT_BYTES`, which would bring torch along
# Seconds that one picture takes on one core in the untuned towers, a dozen changed copies of it included.
_TOWER_S = 0.25


@dataclass(frozen=True)
class Plan:
    """items and captions: of the table; passes: of the U-Net by step; seconds_a_pass and flops_a_pass: measured here;
    inputs: digest of what the user brought, by names, sizes and times of change."""

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
    inputs: str

    @property
    def total(self) -> int:
        """Passes of all steps."""
        return sum(self.passes.values())

    @property
    def hours_here(self) -> float:
        """On this machine: passes by one core each, pictures through the towers."""
        return (self.total * self.seconds_a_pass / self.workers + self.items * _TOWER_S) / 3600

    @property
    def hours_gpu(self) -> float:
        """Of the passes on one GPU."""
        return self.total * self.flops_a_pass / GPU_FLOPS / 3600

    @property
    def disk_gb(self) -> float:
        """Pictures as they came and as squares, latents and text states, features."""
        values = self.items * (_size(self.latent) + _size(self.text) + 2 * 2768)
        return (2 * self.bytes_of_pictures + self.items * 130_000 + 4 * values) / 1e9

    @property
    def memory_gb(self) -> float:
        """Of each labelling worker: latents, text states, and a small grid of noise; of a large one nothing is kept."""
        latents = 4 * self.items * _size(self.latent)
        noise = latents * 2 * self.timesteps
        return (latents + (noise if noise <= KEPT_NOISE else 0) + 4 * self.items * _size(self.text)) / 1e9

    def lines(self) -> list[str]:
        """For a reader."""
        told = [f"{self.items:,} pictures, {self.captions:,} different captions"]
        told += [f"{name:<8} {count:>14,} U-Net passes" for name, count in self.passes.items()]
        if self.passes:
            told.append(
                f"a pass takes {self.seconds_a_pass * 1e3:.1f} ms on one core here, {self.flops_a_pass / 1e9:.2f} GFLOP"
            )
        told.append(f"hours    {self.hours_here:.1f} on this machine with {self.workers} workers")
        if self.passes:
            told.append(
                f"         {self.hours_gpu:.1f} of passes on one GPU at {GPU_FLOPS / 1e12:.0f} TFLOP/s"
            )
            told.append(f"memory   {self.memory_gb:.1f} GB in each worker that labels")
        told.append(f"disk     {self.disk_gb:.1f} GB below the folder of --out")
        return told


def make_plan(request: Request) -> Plan:
    """Count and measure; raises `OwnError` naming what is missing or does not fit."""
    files, captions = listed(request)
    size = sum((request.pictures / name).stat().st_size for name in files)
    if request.checkpoint is None:
        if request.lora is not None:
            raise OwnError("--lora", "needs the --checkpoint that it was trained on")
        nothing = (0, 0, 0), (0, 0)
        return Plan(
            len(files), captions, size, {}, 0.0, 0.0, *nothing, request.workers, 0, _inputs(request, files)
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
    passes = {
        "queries": queries * request.steps * 2,
        "factors": items * _FACTORS,
        "labels": items * columns
        + queries * (_BACKWARD * request.gradient_draws + columns * candidates + _TRIES * _PROBES),
    }
    return Plan(
        items, captions, size, passes, found.seconds, found.flops, found.latent, found.text, request.workers,
        request.timesteps, _inputs(request, files),
    )  # fmt: skip


def listed(request: Request) -> tuple[list[str], int]:
    """Files of the table that are there, and how many different captions; raises `OwnError` for a table of none."""
    if not request.pictures.is_dir():
        raise OwnError("--pictures", f"{request.pictures} is no folder")
    rows = _rows(request.captions)
    lacking = {"file", "caption"} - set(rows[0] if rows else {"file": "", "caption": ""})
    if lacking:
        raise OwnError("--captions", f"{request.captions} has no column {', '.join(sorted(lacking))}")
    named = [row for row in rows if str(row["file"] or "").strip() and str(row["caption"] or "").strip()]
    there = [str(row["file"]) for row in named if (request.pictures / str(row["file"])).is_file()]
    if not there:
        raise OwnError(
            "--captions", f"none of the {len(rows)} files of {request.captions} is in {request.pictures}"
        )
    return there, len({" ".join(str(row["caption"]).split()) for row in named})


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


def _rows(path: Path) -> Sequence[dict[str, Any]]:
    try:
        if path.suffix.lower() == ".parquet":
            return list(pq.read_table(path).to_pylist())
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise OwnError("--captions", f"{path} cannot be read: {error}") from error


def _size(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def clock(work: Any, least: int = 2) -> float:
    """Seconds of the fastest of a few runs."""
    best = float("inf")
    for _ in range(least):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best
