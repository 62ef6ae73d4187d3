"""What is named twice, or lies in two inputs, is scored and paid once or refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.batch.pictures import Access
from attributary.batch.plan import make_plan
from attributary.batch.settings import Settings
from attributary.errors import InputError


def test_a_link_to_an_input_counts_once(tmp_path, picture):
    """`latest.tar` beside what it leads to, and two names of one directory."""
    log = tmp_path / "log"
    (log / "a").mkdir(parents=True)
    pq.write_table(pa.table({"image": [picture(0), picture(1)]}), log / "a" / "7.parquet")
    (log / "latest.parquet").symlink_to("a/7.parquet")
    (tmp_path / "now").symlink_to("log")
    (tmp_path / "elsewhere.parquet").symlink_to("log/a/7.parquet")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture(2))
    (tmp_path / "again").symlink_to("pictures")
    told = {"a symbolic link to an input that is read itself"}
    for inputs, names in (
        ([log], ["7.parquet"]),
        ([tmp_path / "now", log], ["7.parquet"]),
        ([tmp_path / "elsewhere.parquet", log], ["7.parquet"]),
        ([tmp_path / "again", tmp_path / "pictures"], ["pictures"]),
    ):
        plan = make_plan(inputs, Settings())
        assert [one.file.name.rpartition("/")[2] for one in plan.files] == names
        assert plan.fates.skipped.keys() == told
    # Alone, a link is its file.
    assert make_plan([tmp_path / "elsewhere.parquet"], Settings()).rows == 2


def test_a_picture_of_two_folders_is_refused(tmp_path, picture):
    """A link to a part of another input, a part of it, a link in another folder: each was counted once more."""
    log, store = tmp_path / "log", tmp_path / "store"
    for number, place in enumerate((log / "sub", log / "init-images", tmp_path / "other", store)):
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(picture(number))
    (tmp_path / "link").symlink_to("log/sub")
    (tmp_path / "other" / "again").symlink_to("../log/sub")
    for name in ("1.png", "2.png"):
        for place in (log, tmp_path / "other"):
            (place / name).symlink_to(store / "a.png")
    allowed = Settings(access=Access(roots=(str(tmp_path),)))
    for inputs in (
        [log, tmp_path / "link"],
        [tmp_path / "link", log],
        [log, log / "sub"],
        [log, tmp_path / "other"],
    ):
        with pytest.raises(InputError, match="would count twice"):
            make_plan(inputs, allowed)
    for name, file in (("about", "sub/a.png"), ("else", "../elsewhere.png")):
        pq.write_table(pa.table({"file_name": [file]}), log / f"{name}.parquet")
    with pytest.raises(InputError, match=r"log/about\.parquet: holds .*/sub/a.png', which log holds as well"):
        make_plan([log, log / "about.parquet"], allowed)
    assert make_plan([log, log / "else.parquet"], allowed).rows == 4
    # What a folder leaves out may be named beside it, and several links may lead to what is no input.
    (tmp_path / "other" / "again").unlink()
    assert make_plan([log, log / "init-images", tmp_path / "other"], allowed).rows == 7


def test_a_copy_of_an_input_is_refused(tmp_path, picture):
    for name in ("a", "backup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(picture(0))
        pq.write_table(pa.table({"image": [picture(0)]}), tmp_path / f"{name}.parquet")
        pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / f"{name}-empty.parquet")
    for end in ("", ".parquet"):
        inputs = [tmp_path / f"{name}{end}" for name in ("backup", "a")]
        with pytest.raises(InputError, match=f"input backup{end}: is a copy of a{end}, to the byte"):
            make_plan(inputs, Settings())
    assert make_plan([tmp_path / "a.parquet", *tmp_path.glob("*-empty.parquet")], Settings()).rows == 1
    # The same picture twice is two generations.
    (tmp_path / "a" / "2.png").write_bytes(picture(0))
    assert make_plan([tmp_path / "a", tmp_path / "backup"], Settings()).rows == 3
