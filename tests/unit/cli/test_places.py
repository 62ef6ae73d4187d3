"""Places that cannot be written, or hold something else: one line that names them, and no traceback."""

import errno
import os

import pytest

from attributary.building import build_bundle
from attributary.cli import main
from attributary.errors import InvalidArgumentError, said_of


@pytest.mark.parametrize("out", ["file/bundle", "x" * 300, "/proc/bundle"])
def test_a_build_says_before_its_work_that_its_place_cannot_be_written(tmp_path, capsys, monkeypatch, out):
    """It had said so after hours, some of it in a traceback."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    words = ["bundle", "build", "--corpus", "nowhere", "--encoder", "nowhere", "--out", out]
    monkeypatch.setattr("sys.argv", ["attributary", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert told.startswith("attributary: ") and out in told and "nowhere" not in told


def test_a_build_leaves_nothing_where_it_only_looked(tmp_path):
    with pytest.raises(InvalidArgumentError, match="encoder"):
        build_bundle(tmp_path, tmp_path, tmp_path / "new" / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied"),
        # Of a copy the second file is what could not be written.
        (OSError(errno.ENOSPC, "No space left", "a", None, "b"), "cannot write b: No space left"),
        (OSError(errno.ENOSPC, "No space left"), "cannot write all of it: No space left"),
        (OSError(errno.ENOENT, "Failed to open local file 'x'"), "Failed to open local file 'x'"),
    ],
)
def test_what_is_in_the_way_is_named(error, said):
    assert said_of(error) == said


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    def broken(**_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with pytest.raises(OSError, match="Bad file descriptor"):
        main.run(broken)
