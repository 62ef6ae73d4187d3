"""A student's folder for tests: any encoder, vectors that belong to it, and a calibration."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from attributary.building.calibration_file import CALIBRATION, CalibrationFile
from attributary.bundle.files import sha256
from attributary.bundle.manifest import Calibration, ShareCalibration

WEIGHTS = "1" * 64
SHARES = ShareCalibration(temperature=0.05, threshold=0.01, background=0.9, ood_similarity=0.4)


def write_student(directory: Path, encoder: Path, ids, vectors, *, weights=WEIGHTS, candidates=50) -> Path:
    """Write what `attributary-train student train` hands over, and a calibration.json."""
    directory.mkdir(parents=True)
    for name in ("encoder.onnx", "tokenizer.json"):
        shutil.copyfile(encoder / name, directory / name)
    np.save(directory / "vectors.npy", np.asarray(vectors, np.float16))
    np.save(directory / "ids.npy", np.asarray(ids, np.int64))
    write_facts(directory, weights=weights)
    write_calibration(directory, weights=weights, candidates=candidates)
    return directory


def write_facts(directory: Path, **changes) -> None:
    """student.json with the hashes of what lies beside it."""
    files = {
        name: {"sha256": sha256(directory / name)}
        for name in ("encoder.onnx", "tokenizer.json", "vectors.npy", "ids.npy")
    }
    facts = {
        "schema_version": 1,
        "name": "fake",
        "subject": {"id": "drawn shapes", "weights": changes.pop("weights", WEIGHTS)},
        "corpus": {"ids_sha256": "2" * 64},
        "labels": {"digest": "3" * 64},
        "files": files,
        **changes,
    }
    (directory / "student.json").write_text(json.dumps(facts))


def write_calibration(directory: Path, *, weights=WEIGHTS, candidates=50, **changes) -> None:
    """calibration.json that belongs to what lies beside it."""
    made = CalibrationFile(
        Calibration("by hand", SHARES, replace(SHARES, temperature=0.07)),
        candidates=candidates,
        encoder_digest=sha256(directory / "encoder.onnx"),
        vectors_digest=sha256(directory / "vectors.npy"),
        subject_weights=weights,
        labels_digest="4" * 64,
        measured={"agreement": {"spearman": 0.5}},
    )
    replace(made, **changes).write(directory / CALIBRATION)


def vectors_of(bundle: Path):
    """Ids and vectors of a bundle that was built from pictures."""
    return pq.read_table(bundle / "items.parquet")["id"].to_numpy(), np.load(bundle / "vectors.npy")


def write_queries(directory: Path, pictures: list[bytes], *, foreign: int = 0) -> Path:
    """Pictures and queries.json; the last `foreign` ones are said not to be generated."""
    directory.mkdir(parents=True)
    entries = []
    for number, data in enumerate(pictures):
        (directory / f"{number}.png").write_bytes(data)
        entries.append(
            {
                "file": f"{number}.png",
                "title": f"query {number}",
                "prompt": "a red ellipse" if number % 2 else "a blue rectangle",
                "generated": number < len(pictures) - foreign,
                "expected": [1000 + number],
            }
        )
    (directory / "queries.json").write_text(json.dumps({"queries": entries}))
    return directory
