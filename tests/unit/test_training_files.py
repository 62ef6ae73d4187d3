"""Files of attributary_train that are there whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from attributary_train.errors import TrainError
from attributary_train.files import whole, write_text, writing

FAILURES = [
    OSError(28, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file data/1"),
    SafetensorError("Error while serializing: IoError: No space left"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_file_that_cannot_be_written_is_named_and_nothing_left(tmp_path, failure):
    (tmp_path / "f.bin").write_bytes(b"before")
    with (
        pytest.raises(TrainError, match=r"f\.bin: cannot be written: .*free space and start again"),
        whole(tmp_path / "f.bin", TrainError) as stream,
    ):
        stream.write(b"half")
        raise failure
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize("defect", [RuntimeError("a shape"), ValueError("x"), KeyboardInterrupt()])
def test_what_is_no_matter_of_writing_is_left_as_it_is(tmp_path, defect):
    with pytest.raises(type(defect)), whole(tmp_path / "f", TrainError):
        raise defect
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match="file/f: cannot be written"):
        write_text(tmp_path / "file" / "f", "x", TrainError)
    with pytest.raises(TrainError, match="full: cannot be written"), writing(Path("/dev/full"), TrainError):
        torch.save({"a": torch.zeros(1000)}, "/dev/full")


def test_it_takes_its_place_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "f"
    with whole(path, TrainError) as stream:
        stream.write(b"1")
        assert not path.exists()
    assert path.read_bytes() == b"1" and list(path.parent.iterdir()) == [path]
