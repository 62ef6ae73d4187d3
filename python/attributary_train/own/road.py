"""The road as steps, each a command of its own that can be run by hand in the same words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

SERVING, TRAINING = "attributary", "attributary-train"
# Share of the validation queries that calibration counts on: the teacher may fail on some of an odd generator's.
_LABELLED = 0.7
MODULES = {SERVING: "attributary.cli.main", TRAINING: "attributary_train"}


@dataclass(frozen=True)
class Request:
    """What the user has and wants.

    pictures, captions: as `corpus build` takes them; checkpoint: a diffusers directory, None for an untuned bundle;
    lora: low-rank weights on it that the pictures were used to train; prompts: prompts really asked, for the queries;
    train, validation, test: queries to label; nearest, outside: candidates of each, both 0 for every item; config: of
    the student, a name or a file.
    """

    pictures: Path
    captions: Path
    out: Path
    checkpoint: Path | None = None
    lora: Path | None = None
    prompts: Path | None = None
    train: int = 1000
    validation: int = 100
    test: int = 50
    nearest: int = 200
    outside: int = 200
    steps: int = 30
    gradient_draws: int = 256
    timesteps: int = 5
    fisher: str = "ekfac"
    config: str = "kernel"
    image_size: int | None = None
    workers: int = 1
    threads: int = 1

    @property
    def queries(self) -> int:
        """Queries of all splits."""
        return self.train + self.validation + self.test

    @property
    def bundle(self) -> Path:
        """Where the bundle will be."""
        return self.out / "bundle"


@dataclass(frozen=True)
class Step:
    """`makes` is there when the step is done; `argv` is what follows the tool's name; `looks`: it writes nothing."""

    name: str
    tool: str
    argv: tuple[str, ...]
    makes: Path
    looks: bool = False

    @property
    def folder(self) -> Path:
        """What the step writes: the file itself, or the folder that it is the last file of."""
        alone = self.makes.is_dir() or self.makes.suffix == ".parquet" or self.name == "calibration"
        return self.makes if alone else self.makes.parent

    @property
    def command(self) -> str:
        """As a person would type it."""
        return shlex.join([self.tool, *self.argv])


def road(request: Request) -> list[Step]:
    """The steps in their order."""
    out = request.out
    corpus = out / "corpus"
    first = _step(
        "corpus", TRAINING, corpus / "corpus.json", "corpus", "build", "--folder", request.pictures, "--captions",
        request.captions, "--out", corpus, "--cache", out / "cache", "--workers", request.workers,
    )  # fmt: skip
    middle = (
        _untuned(out, request) if request.checkpoint is None else _tuned(out, request, request.checkpoint)
    )
    verify = Step(
        "verify",
        SERVING,
        ("bundle", "verify", str(request.bundle)),
        request.bundle / "manifest.json",
        looks=True,
    )
    return [first, *middle, verify]


def _untuned(out: Path, request: Request) -> list[Step]:
    encoder = out / "encoder"
    return [
        _step(
            "encoder", TRAINING, encoder / "encoder.json", "encoder", "export", "--corpus", out / "corpus", "--out",
            encoder, "--cache", out / "cache" / "features", "--threads", request.threads,
        ),
        _step(
            "bundle", SERVING, request.bundle / "manifest.json", "bundle", "build", "--corpus", out / "corpus",
            "--encoder", encoder, "--out", request.bundle, "--force",
        ),
    ]  # fmt: skip


def _tuned(out: Path, request: Request, checkpoint: Path) -> list[Step]:
    subject, queries, labels, student = (
        out / "subject",
        out / "queries.parquet",
        out / "labels",
        out / "student",
    )
    plain = ("--subject", subject, "--corpus", out / "corpus")
    model = (*plain, "--cache", out / "cache")
    picked = (*model, "--queries", queries)
    prompts = () if request.prompts is None else ("--prompts", request.prompts)
    lora = () if request.lora is None else ("--lora", request.lora)
    size = () if request.image_size is None else ("--image-size", request.image_size)
    return [
        _step(
            "adopt", TRAINING, subject / "subject.json", "subject", "adopt", "--checkpoint", checkpoint, "--corpus",
            out / "corpus", "--out", subject, "--cache", out / "cache", "--threads", request.threads, *size, *lora,
        ),
        _step(
            "queries", TRAINING, queries, "subject", "queries", *plain, "--out", queries, "--train", request.train,
            "--validation", request.validation, "--test", request.test, "--steps", request.steps, *prompts,
        ),
        _step(
            "labels", TRAINING, labels, "label", *picked, "--out", labels, "--split", "train", "--split", "validation",
            "--split", "test", "--nearest", request.nearest, "--outside", request.outside, "--gradient-draws",
            request.gradient_draws, "--timesteps", request.timesteps, "--fisher", request.fisher, "--workers",
            request.workers,
        ),
        _step(
            "student", TRAINING, student / "student.json", "student", "train", *picked, "--labels", labels, "--config",
            request.config, "--threads", request.threads, "--out", student,
        ),
        _step(
            "calibration", TRAINING, student / "calibration.json", "calibrate", "fit", "--student", student, *picked,
            "--labels", labels, "--false-alarms", max(0.02, round(1 / (_LABELLED * max(request.validation, 1)), 3)),
        ),
        _step(
            "asked", TRAINING, out / "asked" / "queries.json", "demo-queries", *picked, "--split", "test", "--count",
            min(8, request.test), "--out", out / "asked",
        ),
        _step(
            "bundle", SERVING, request.bundle / "manifest.json", "bundle", "build", "--student", student, "--corpus",
            out / "corpus", "--queries", out / "asked", "--out", request.bundle, "--force",
        ),
    ]  # fmt: skip


def _step(name: str, tool: str, makes: Path, *argv: object) -> Step:
    return Step(name, tool, tuple(str(word) for word in argv), makes)
