"""Files that a user names: what has no end, or is a film, is refused before it fills the memory."""

from pathlib import Path

import pytest

from attributary import files
from attributary.client import query
from attributary.errors import InvalidArgumentError


@pytest.mark.parametrize("named", ["a device without an end", "a large file"])
def test_what_no_message_holds_is_not_read(tmp_path, monkeypatch, named):
    monkeypatch.setattr(files, "_MOST", 1 << 20)
    monkeypatch.setattr(files, "_PART", 1 << 16)
    place = Path("/dev/zero")
    if named == "a large file":
        place = tmp_path / "film.mp4"
        with place.open("wb") as file:
            file.truncate((1 << 20) + 1)
    with pytest.raises(InvalidArgumentError, match=rf"^query.image: {place} is larger than 1048576 bytes$"):
        query(place)


def test_a_file_within_the_bound_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PART", 3)
    (tmp_path / "a").write_bytes(b"0123456789")
    assert files.read_file(tmp_path / "a", "picture") == b"0123456789"
    assert files.read_file(tmp_path / "a", "picture", 4) == b"01234"
