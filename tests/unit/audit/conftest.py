"""A whole chain on drawn shapes: queries, labels, a fake student, its calibration and its bundle."""

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from attributary.building import build_from_student
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.pictures import prepare_pixels
from attributary_train.calibration.commands import calibrate
from attributary_train.generators.latents import decode
from attributary_train.subject.checkpoint import load_autoencoder
from attributary_train.subject.queries import Prompt, generate, save_queries
from attributary_train.teacher import label_worker
from attributary_train.teacher.abu import AbuSettings
from attributary_train.teacher.candidates import CandidateSettings
from attributary_train.teacher.ekfac import FactorSettings
from attributary_train.teacher.label_factory import Job, prepare
from attributary_train.teacher.labels import LabelSettings
from tests.unit.evaluation.conftest import subject  # noqa: F401

_PATH = Path(__file__).parents[2] / "support" / "students.py"
_spec = importlib.util.spec_from_file_location("students", _PATH)
students = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(students)

TEACHER = AbuSettings(
    gradient_draws=4,
    timesteps=2,
    target_change=None,
    alpha=1e-4,
    factors=FactorSettings(draws=1, backend="torch"),
)
VALIDATION, TEST = 50, 10


@dataclass
class Chain:
    """Where everything of it lies."""

    subject: object
    queries: Path
    labels: dict[str, Path]
    student: Path
    asked: Path
    bundle: Path

    def options(self, student=True):
        """What every `calibrate` command is told."""
        of_student = ["--student", str(self.student)] if student else []
        return [
            *of_student, "--subject", str(self.subject.subject), "--corpus", str(self.subject.corpus.root),
            "--cache", str(self.subject.cache), "--queries", str(self.queries),
        ]  # fmt: skip

    def calibrate(self, *arguments):
        return CliRunner().invoke(calibrate, [str(value) for value in arguments])


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def chain(subject, tiny_encoder_dir, tmp_path_factory):  # noqa: F811
    root = tmp_path_factory.mktemp("chain")
    data = subject.data
    prompts = [
        Prompt(data.prompts[at % len(data)], "seen", "validation" if at < VALIDATION else "test", at)
        for at in range(VALIDATION + TEST)
    ]
    queries = generate(subject.model, prompts, subject.recipe.tokens, steps=1)
    save_queries(queries, root / "queries.parquet")
    labels = {}
    for split in ("validation", "test"):
        labels[split] = root / "labels" / split
        job = Job(
            labels[split], subject.subject, subject.corpus.root, root / "queries.parquet", subject.cache, (split,)
        )  # fmt: skip
        prepare(job, LabelSettings(TEACHER, CandidateSettings(0, 0)), lambda line: None)
        assert label_worker.main(str(labels[split])) == 0
    student = students.write_student(
        root / "student", tiny_encoder_dir, data.ids, item_vectors(subject, tiny_encoder_dir),
        weights=subject.model.weights,
    )  # fmt: skip
    pictures = decode(load_autoencoder(subject.subject), queries.latents[:4])
    asked = students.write_queries(root / "asked", [png(picture) for picture in pictures])
    made = Chain(subject, root / "queries.parquet", labels, student, asked, root / "bundle")
    fitted = made.calibrate("fit", *made.options(), "--labels", labels["validation"])
    assert fitted.exit_code == 0, fitted.output
    told = made.calibrate("report", *made.options(), "--labels", labels["test"], "--record")
    assert told.exit_code == 0, told.output
    build_from_student(student, subject.corpus.root, asked, made.bundle)
    return made


def item_vectors(subject, encoder_dir):  # noqa: F811
    """The pictures of the training set through the tiny encoder, without captions."""
    encoder = OnnxEncoder(encoder_dir / "encoder.onnx")
    tokenizer = PromptTokenizer.from_file(encoder_dir / "tokenizer.json", encoder.spec.max_tokens)
    ids, mask = tokenizer.pad([tokenizer.encode("")] * len(subject.data))
    size = encoder.spec.image_size
    pixels = [
        prepare_pixels(np.asarray(subject.corpus.image(int(number))), size) for number in subject.data.ids
    ]
    return encoder.encode(np.stack(pixels), ids, mask)
