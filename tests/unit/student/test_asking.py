"""Scores as shares: by the calibration of the kind of query, and never by the calibration of another encoder."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from attributary.building.calibration_file import CALIBRATION, CalibrationFile
from attributary.errors import InvalidArgumentError
from attributary_train.errors import StudentError
from attributary_train.student.asking import AskedStudent, calibration_of

COMMITTED = Path(__file__).resolve().parents[3] / "models" / "student" / CALIBRATION


def test_what_is_said_is_that_of_the_kind_of_query():
    file = CalibrationFile.read(COMMITTED)
    for prompts in (True, False):
        assert calibration_of(COMMITTED, file.encoder_digest, prompts) == file.calibration.of(prompts)
    assert calibration_of(COMMITTED, file.encoder_digest, True) != calibration_of(
        COMMITTED, file.encoder_digest, False
    )


def test_a_calibration_of_another_encoder_is_refused_by_name(tmp_path):
    other = replace(CalibrationFile.read(COMMITTED), encoder_digest="f" * 64)
    other.write(tmp_path / CALIBRATION)
    with pytest.raises(StudentError, match="was fitted to encoder ffffffffffff, not to aaaaaaaaaaaa"):
        calibration_of(tmp_path / CALIBRATION, "a" * 64, True)


@pytest.mark.parametrize("name", ["vectors.npy", "encoder.onnx"])
def test_a_file_of_another_student_is_refused_by_name(tmp_path, name):
    for path in COMMITTED.parent.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    asked = AskedStudent(tmp_path, "encoder.onnx")
    assert asked.vectors.shape == (len(asked.ids), asked.encoder.spec.dim)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=f"{name} is not of this student"):
        AskedStudent(tmp_path)


def test_a_variant_that_the_student_lacks_is_named(tmp_path):
    with pytest.raises(StudentError, match=r"encoder\.fp4\.onnx"):
        AskedStudent(COMMITTED.parent, "encoder.fp4.onnx")
