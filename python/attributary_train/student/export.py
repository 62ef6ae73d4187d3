"""From a student in torch to the files of a bundle: `encoder.onnx`, its int8 variant, `encoder.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from attributary.bundle.files import sha256
from attributary.encoder.onnx import META_MAX_TOKENS, META_NAME, META_VARIANT_OF, OUTPUT, OnnxEncoder
from attributary.errors import AttributaryError
from attributary_train.towers.graph import IR_VERSION, OPSET, set_metadata, to_onnx, write_model

from .model import Student
from .quantise import FLOAT_CONVOLUTIONS, quantise

ENCODER = "encoder.onnx"
ENCODER_INT8 = "encoder.int8.onnx"
TOKENIZER = "tokenizer.json"
DESCRIPTION = "encoder.json"

# An export whose embeddings differ from torch's by more than this is not written.
PARITY_LIMIT = 1e-4

_INPUTS: Mapping[str, Mapping[int, str]] = {
    "pixels": {0: "B"},
    "token_ids": {0: "B", 1: "T"},
    "token_mask": {0: "B", 1: "T"},
}
Feed = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]


class ExportError(AttributaryError):
    """The exported graph does not compute what the student computes."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Pictures and prompts of the corpus, for the parity check and the scales of the int8 variant."""

    pixels: NDArray[np.uint8]  # [N, S, S, 3], N of at least 16; more give the int8 variant better scales
    token_ids: NDArray[np.int64]  # [N, T]
    token_mask: NDArray[np.int64]  # [N, T]


def export_encoder(
    out_dir: Path,
    student: Student,
    tokenizer: Path,
    samples: Samples,
    *,
    int8: bool = True,
    float_convolutions: int = FLOAT_CONVOLUTIONS,
    details: Mapping[str, object] | None = None,
    outputs: Sequence[str] = (OUTPUT,),
) -> dict[str, object]:
    """Write the encoder's files to `out_dir`; returns what `encoder.json` holds, `details` included.

    `outputs` names what the student returns: where queries are, and where items are if that is elsewhere.

    Raises `ExportError` if ONNX Runtime's embeddings differ from torch's by more than `PARITY_LIMIT`.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    fp32 = out_dir / ENCODER
    metadata = {META_NAME: student.name, META_MAX_TOKENS: str(student.max_tokens)}
    to_onnx(cast(torch.nn.Module, student), _examples(student), _INPUTS, outputs, fp32, metadata)
    encoder = OnnxEncoder(fp32)
    parity = measure_parity(student, encoder, samples)
    if parity > PARITY_LIMIT:
        raise ExportError(f"{fp32} differs from torch by {parity:.1e}; the limit is {PARITY_LIMIT:.0e}")
    if tokenizer != out_dir / TOKENIZER:
        shutil.copyfile(tokenizer, out_dir / TOKENIZER)
    description: dict[str, object] = {
        "schema_version": 1,
        "name": student.name,
        "dim": student.dim,
        "image_size": student.image_size,
        "max_tokens": student.max_tokens,
        "digest": encoder.spec.digest,
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "parity_max_abs_difference": parity,
        "files": {name: file_facts(out_dir / name) for name in (ENCODER, TOKENIZER)},
    }
    if int8:
        description["int8"] = export_int8(fp32, out_dir / ENCODER_INT8, samples, float_convolutions)
    description.update(details or {})
    (out_dir / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    return description


def export_int8(fp32: Path, target: Path, samples: Samples, float_convolutions: int) -> dict[str, object]:
    """Write the int8 variant of `fp32` and return its facts: size, digest, cosine to fp32."""
    quantise(fp32, target, samples.pixels[: len(samples.pixels) // 2], float_convolutions=float_convolutions)
    original = OnnxEncoder(fp32)
    model = onnx.load(target)
    set_metadata(model, {META_VARIANT_OF: original.spec.digest})
    write_model(model, target)
    variant = OnnxEncoder(target)
    # The half that did not set the scales.
    rows = slice(len(samples.pixels) // 2, None)
    unseen = Samples(samples.pixels[rows], samples.token_ids[rows], samples.token_mask[rows])
    found = cosines(original, variant, unseen)
    return {**file_facts(target), "variant_of": original.spec.digest, "cosine_to_fp32": found}


def cosines(original: OnnxEncoder, variant: OnnxEncoder, samples: Samples) -> dict[str, Any]:
    """Cosine of a variant's embeddings to the original's, mean and least, with prompts and without."""
    none = np.zeros((len(samples.pixels), 1), np.int64)
    found = {}
    for name, ids, mask in (
        ("image", none, none),
        ("image_and_prompt", samples.token_ids, samples.token_mask),
    ):
        feed = (samples.pixels, ids, mask)
        values = (_embed(original, feed) * _embed(variant, feed)).sum(axis=1)
        found[name] = {"mean": float(values.mean()), "min": float(values.min()), "pictures": len(values)}
    return found


def measure_parity(student: Student, encoder: OnnxEncoder, samples: Samples) -> float:
    """Largest absolute difference of embeddings, torch against ONNX: batches of 1 to 8, prompts or none."""
    worst = 0.0
    for batch in range(1, 9):
        start = (batch * 3) % max(1, len(samples.pixels) - batch + 1)
        rows = slice(start, start + batch)
        pixels, ids, mask = samples.pixels[rows], samples.token_ids[rows], samples.token_mask[rows].copy()
        nothing = np.zeros((len(pixels), 1), np.int64)
        mixed = mask.copy()
        mixed[::2] = 0
        for feed in ((pixels, ids, mask), (pixels, nothing, nothing), (pixels, ids, mixed)):
            with torch.inference_mode():
                told = student(*(torch.from_numpy(array) for array in feed))
            both = (encoder.encode, encoder.encode_items)
            for found, expected in zip(both, told if isinstance(told, tuple) else (told, told), strict=True):
                difference = float(np.abs(found(*feed) - expected.numpy()).max())
                # NaN compares false with everything; it must not pass as no difference.
                worst = max(worst, difference) if np.isfinite(difference) else float("inf")
    return worst


def _examples(student: Student) -> list[torch.Tensor]:
    size = student.image_size
    pixels = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    tokens = torch.ones((2, 5), dtype=torch.int64)
    return [pixels, tokens, tokens.clone()]


def _embed(encoder: OnnxEncoder, feed: Feed, batch: int = 8) -> NDArray[np.float32]:
    pixels, ids, mask = feed
    parts = [
        encoder.encode(pixels[at : at + batch], ids[at : at + batch], mask[at : at + batch])
        for at in range(0, len(pixels), batch)
    ]
    return np.concatenate(parts)


def file_facts(path: Path) -> dict[str, object]:
    """SHA-256 and size of a file."""
    return {
        "file": path.name,
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
    }
