"""A bundle from a student: vectors that were made offline, shares that were calibrated against a teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attributary.delta.journal.place import check_replaceable
from attributary.encoder.base import Encoder
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.errors import InvalidArgumentError
from attributary.index.planning import IndexBudget
from attributary.index.tuning import build_index
from attributary.pictures import prepare_pixels

from .build import BuildReport, Parts, at_least, require_encoder, write_bundle
from .calibration_file import CALIBRATION, CalibrationFile
from .embed import Probes, encode, read_picture
from .looks import pictured, read_looks
from .source import read_rows
from .student import StudentFolder, read_student

QUERIES = "queries.json"
_BATCH = 16


@dataclass(frozen=True, slots=True)
class QueryPicture:
    """One entry of `queries.json`; `facts` is all that it says."""

    path: Path
    prompt: str
    generated: bool  # False: a picture that the generator did not make
    facts: Mapping[str, Any]


def read_queries(directory: Path) -> list[QueryPicture]:
    """Read `queries.json`: {"queries": [{"file", "prompt", "generated", ...}]}; raises InvalidArgumentError."""
    path = directory / QUERIES
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["queries"]
        found = [
            QueryPicture(
                directory / str(entry["file"]), str(entry["prompt"]), bool(entry["generated"]), dict(entry)
            )
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError("queries", f"{path} cannot be read: {error!r}") from error
    if not any(one.generated for one in found):
        raise InvalidArgumentError("queries", f"{path} names no generated picture")
    return found


def query_probes(
    query_pictures: Sequence[QueryPicture], encoder: Encoder, tokenizer: PromptTokenizer
) -> Probes:
    """Embed the generated pictures, each with its prompt and without one; `rows` of the probes are -1."""
    chosen = [one for one in query_pictures if one.generated]
    pictures = [prepare_pixels(read_picture(one.path, None), encoder.spec.image_size) for one in chosen]
    pixels = [picture for picture in pictures for _ in range(2)]
    tokens = [tokenizer.encode(prompt) for one in chosen for prompt in ("", one.prompt)]
    parts = [
        encode(
            encoder.encode,
            tokenizer,
            list(zip(pixels[at : at + _BATCH], tokens[at : at + _BATCH], strict=True)),
        )
        for at in range(0, len(pixels), _BATCH)
    ]
    rows = np.full(len(pixels), -1, np.int64)
    return Probes(rows, np.stack(pixels), tokens, np.concatenate(parts), np.zeros(len(pixels), bool))


def build_from_student(
    student_dir: Path,
    corpus: Path,
    queries: Path,
    out: Path,
    *,
    calibration: Path | None = None,
    budget: IndexBudget | None = None,
    version: str = "1",
    generator: str = "",
    names_in_prompts: str = "",
    seed: int = 0,
    thumbnails: tuple[str, ...] | None = None,
    force: bool = False,
) -> BuildReport:
    """Build a bundle in `out` that holds exactly the items of a student; their pictures are read to be recognised.

    `corpus` is a corpus directory or an items.parquet with those items, which may hold what they look like; `queries` a
    folder of generated pictures with `queries.json`, with which the index is measured and golden queries are recorded;
    `calibration` a file of `attributary-train calibrate fit`, by default the one in the student's folder; `generator`
    what people call the generator, by default the name of its recipe; `thumbnails` and `names_in_prompts` as in
    `build_bundle`. Raises InvalidArgumentError where parts do not belong together,
    FileExistsError if `out` exists and not `force`.
    """
    check_replaceable(out, force)
    require_encoder(student_dir)
    student = read_student(student_dir)
    shares = CalibrationFile.read(calibration or student_dir / CALIBRATION)
    _belongs(shares, student)
    table = read_rows(corpus, student.ids)
    encoder = OnnxEncoder(student.encoder_path)
    if student.vectors.shape[1] != encoder.spec.dim:
        raise InvalidArgumentError(
            "student", f"vectors have {student.vectors.shape[1]} dimensions, the encoder {encoder.spec.dim}"
        )
    tokenizer = PromptTokenizer.from_file(student.tokenizer_path, encoder.spec.max_tokens)
    probed = query_probes(read_queries(queries), encoder, tokenizer)
    # Shares compete among as many candidates as they were calibrated with; fewer would inflate them.
    candidates = min(shares.candidates, len(student.ids))
    budget = budget or IndexBudget()
    budget = replace(budget, min_candidates=candidates, max_candidates=max(budget.max_candidates, candidates))
    parts = Parts(
        encoder_dir=student_dir,
        encoder=encoder,
        table=table,
        vectors=student.vectors,
        tuned=build_index(student.vectors, at_least(probed.embeddings, 20), budget, seed),
        calibration=shares.calibration,
        probed=probed,
        version=version,
        names_in_prompts=names_in_prompts,
        student=student.name,
        subject=replace(student.subject, id=generator or student.subject.id),
        notes=_notes(student, shares),
        vectors_made_by=student.vectors_made_by,
        looks=read_looks(corpus, student.ids, encoder.spec.image_size),
        thumbnails={} if thumbnails is None else pictured(corpus, student.ids, thumbnails),
    )
    return write_bundle(parts, out, force)


def _belongs(shares: CalibrationFile, student: StudentFolder) -> None:
    for what, of_shares, of_student in (
        ("encoder", shares.encoder_digest, student.encoder_digest),
        ("vectors", shares.vectors_digest, student.vectors_digest),
        ("generator", shares.subject_weights, student.subject.weights_digest),
    ):
        if of_shares != of_student:
            raise InvalidArgumentError(
                "calibration",
                f"was fitted with {what} {of_shares[:12]}..., the student has {of_student[:12]}...; "
                "fit it again with `attributary-train calibrate fit`",
            )


def _notes(student: StudentFolder, shares: CalibrationFile) -> dict[str, str]:
    return {
        "student_digest": student.digest,
        "student_labels_digest": student.labels_digest,
        "calibration_labels_digest": shares.labels_digest,
        "corpus_ids_sha256": student.corpus_ids_digest,
        "measured": json.dumps(shares.measured, sort_keys=True),
    }
