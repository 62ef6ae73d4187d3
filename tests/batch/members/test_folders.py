"""Law 1 for folders and directories: every file is a row, part of one, or counted with its reason."""

import errno
import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attributary.batch.pictures import Access
from attributary.batch.plan import make_plan
from attributary.batch.report_data import gather
from attributary.batch.report_page import page
from attributary.batch.settings import Settings


def cli(*arguments):
    command = [sys.executable, "-m", "attributary.cli.main", "score", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


@pytest.fixture
def folder(tmp_path, picture):
    """Six pictures, one of them no decoder's, and what tools leave beside."""
    place = tmp_path / "out"
    for name, data in {
        "a.png": picture(0), "b.JFIF": jpeg(picture(1)), "c.jpe": jpeg(picture(2)), "d.jxl": b"\xff\x0a unknown",
        "day/e.png": picture(3), "day/e.txt": b"a house", "grids/grid-0000.png": picture(4),
        "day/thumbnails/e.webp": picture(5), "f_thumb.png": picture(5), "notes.doc": b"x", "orphan.txt": b"x",
        ".DS_Store": b"x", "_tmp/g.png": picture(6), "Thumbs.db": b"x", "clip.mp4": b"x",
    }.items():  # fmt: skip
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def jpeg(data):
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(out, "JPEG")
    return out.getvalue()


SKIPPED = {
    "a grid of pictures, by its name": 1,
    "a text without a picture beside it": 1,
    "a thumbnail or preview, by its name": 2,
    "hidden: a name that begins with a dot or an underscore": 1,
    "its ending .doc is not read here": 1,
    "its ending .mp4 is not read here": 1,
}


def test_every_file_has_a_fate(folder, tmp_path, score_log):
    rows, summary = score_log(folder, tmp_path / "run")
    names = [row["generation_id"] for row in rows]
    assert names == ["out/a.png", "out/b.JFIF", "out/c.jpe", "out/d.jxl", "out/day/e.png"]
    assert [row["generation_id"] for row in rows if row["error_code"]] == ["out/d.jxl"]
    assert summary["skipped"] == SKIPPED
    assert summary["ignored"] == {"bookkeeping of the tool that wrote it": 2}
    report = page(gather(tmp_path / "run"), "x", {}, lambda item_id: None)
    assert "skipped: its ending .doc is not read here" in report
    assert "prompts, txt" in report
    used = 1  # e.txt
    members = len([path for path in folder.rglob("*") if path.is_file()])
    assert members == len(rows) + used + sum(summary["skipped"].values()) + sum(summary["ignored"].values())


def test_the_last_line_says_what_was_skipped(folder, tmp_path, tiny_bundle_dir):
    told = cli(folder, "--bundle", tiny_bundle_dir, "--out", tmp_path / "run", "--max-error-rate", 1)
    assert told.returncode == 0, told.stderr
    last = told.stdout.strip().splitlines()[-1]
    assert "5 rows, 1 error row," in last
    assert "skipped 7: " in last
    assert "1 its ending .doc is not read here" in last
    assert "1 of 5 rows with a prompt (txt 1)" in told.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_bytes())["skipped"] == SKIPPED


def test_strict_refuses_before_any_work(folder, tmp_path, tiny_bundle_dir):
    told = cli(folder, "--bundle", tiny_bundle_dir, "--out", tmp_path / "run", "--strict")
    assert told.returncode == 2
    assert "strict: skipped 7" in told.stderr
    assert not (tmp_path / "run").exists()
    told = cli(
        folder / "day" / "thumbnails", "--bundle", tiny_bundle_dir, "--out", tmp_path / "run", "--strict"
    )
    assert told.returncode == 0, told.stderr


def test_dry_run_says_what_would_be_read(folder, tmp_path):
    told = cli(folder, "--dry-run")
    assert told.returncode == 0, told.stderr
    for part in (
        "1 input, 5 rows", "out  folder  5 rows", "1 of 5 rows with a prompt (txt 1)", "row out/a.png: ",
        "skipped 1: its ending .doc is not read here (such as notes.doc)", "ignored 2: bookkeeping",
    ):  # fmt: skip
        assert part in told.stdout
    assert told.stdout.count("\nrow ") == 3
    found = json.loads(cli(folder, "--dry-run", "--json").stdout)
    assert found["rows"] == 5
    assert found["skipped"] == SKIPPED
    assert [row["generation_id"] for row in found["first_rows"]] == ["out/a.png", "out/b.JFIF", "out/c.jpe"]
    assert cli(folder, "--dry-run", "--strict").returncode == 2


def test_linked_directories_and_files(tmp_path, picture, score_log):
    place, outside, other = tmp_path / "log", tmp_path / "outside", tmp_path / "other"
    for where, name, number in (
        (place / "real", "a", 0),
        (outside, "b", 1),
        (other, "c", 2),
        (place / ".cache", "d", 3),
    ):
        where.mkdir(parents=True)
        (where / f"{name}.png").write_bytes(picture(number))
    (place / "again").symlink_to("real")
    (place / "far").symlink_to(outside)
    (place / "near").symlink_to(".cache")
    (place / "up").symlink_to("..")
    (place / "file.png").symlink_to("real/a.png")
    (place / "away.png").symlink_to(other / "c.png")
    (place / "broken.png").symlink_to("nowhere.png")
    rows, summary = score_log(place, tmp_path / "run")
    assert {row["generation_id"]: row["error_message"] for row in rows} == {
        "log/away.png": "away.png is outside the log's directory; --image-root allows another",
        "log/broken.png": "broken.png cannot be read: No such file or directory",
        "log/near/d.png": None,
        "log/real/a.png": None,
    }
    reasons = summary["skipped"]
    assert reasons["a symbolic link to a directory that is read itself"] == 2
    assert reasons["a symbolic link to a picture that is read itself"] == 1
    assert reasons["a symbolic link out of the folder; --image-root allows its target"] == 1
    roots = Access((str(outside), str(other)))
    rows, summary = score_log(place, tmp_path / "run-2", access=roots)
    assert {row["generation_id"] for row in rows if not row["error_code"]} == {
        "log/away.png", "log/far/b.png", "log/near/d.png", "log/real/a.png",
    }  # fmt: skip


def test_pictures_beside_tables_and_tars(tmp_path, picture, score_log):
    place = tmp_path / "log"
    place.mkdir()
    for number in range(3):
        (place / f"{number}.png").write_bytes(picture(number))
    pq.write_table(
        pa.table({"generation_id": ["x", "y"], "path": ["0.png", "./1.png"]}), place / "log.parquet"
    )
    (place / "notes.csv").write_text("x")
    rows, summary = score_log(place, tmp_path / "run")
    assert [row["error_code"] for row in rows] == [None, None]
    assert summary["skipped"] == {"a picture that no table names": 1, "its ending .csv is not read here": 1}


def test_names_that_are_prompts_are_no_thumbnails(tmp_path, picture, score_log):
    names = [
        "thumbs up.png",
        "city grid.png",
        "gridlock.png",
        "a_city_grid.png",
        "Thumbelina.png",
        "preview.png",
    ]
    for number, name in enumerate(names):
        (tmp_path / "log").mkdir(exist_ok=True)
        (tmp_path / "log" / name).write_bytes(picture(number))
    rows, summary = score_log(tmp_path / "log", tmp_path / "run")
    assert len(rows) == len(names)
    assert summary["skipped"] == {}


def test_texts_are_told_apart_by_case(tmp_path, picture, score_log):
    log = tmp_path / "log"
    log.mkdir()
    for number, name in enumerate(("a", "A", "b")):
        (log / f"{name}.png").write_bytes(picture(number))
    (log / "a.txt").write_text("small")
    (log / "A.txt").write_text("large")
    (log / "B.TXT").write_text("other")
    rows, _ = score_log(log, tmp_path / "run")
    told = {row["generation_id"]: row["prompt_used"] for row in rows}
    assert told == {"log/A.png": "large", "log/a.png": "small", "log/b.png": "other"}


def test_directories_that_cannot_be_read_are_counted(tmp_path, picture, monkeypatch):
    log = tmp_path / "log"
    (log / "closed").mkdir(parents=True)
    (log / "a.png").write_bytes(picture(0))
    scan = os.scandir

    def refused(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refused)
    plan = make_plan([log], Settings())
    assert plan.rows == 1
    assert plan.fates.skipped == {"a directory that cannot be read: Permission denied": 1}


def test_a_generation_that_is_there_twice_counts_once(tmp_path, picture, score_log):
    """AUTOMATIC1111 keeps a JPEG beside a large PNG, and stages where it is told to."""
    place = tmp_path / "txt2img-images"
    names = (
        "00001-7.png", "00001-7.jpg", "00002-8.jpg", "00003-9.webp", "00003-9.jpeg", "a.jpg", "b/a.png",
        "00004-1.png", "00004-1-before-highres-fix.png", "c.png", "c.gif",
    )  # fmt: skip
    for number, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(picture(number))
    rows, summary = score_log(place, tmp_path / "run")
    assert [row["generation_id"].partition("/")[2] for row in rows] == [
        "00001-7.png", "00002-8.jpg", "00003-9.webp", "00004-1.png", "a.jpg", "b/a.png", "c.gif", "c.png",
    ]  # fmt: skip
    assert summary["skipped"] == {
        "a JPEG copy of the picture of its name": 2,
        "a stage of a generation, by its name": 1,
    }


def test_stages_masks_and_what_a_generation_was_given_are_none(tmp_path, picture, score_log):
    place = tmp_path / "outputs"
    skipped = (
        "t/00001-7-ad-before.png", "t/00001-7-ad-preview-2nd.png", "t/00001-7-before-hires.png",
        "t/00001-7-before-detailer.jpg", "t/00001-7-a cat-mask.png", "t/00001-7-mask-composite.png",
        "init-images/0f3c.png", "t/0f3c-init-image.png", "Detected_Maps/depth/depth-1.png", "inputs/0f3c.png",
    )  # fmt: skip
    kept = (
        "t/00002-7.png",
        "t/00003-8-lone ranger-before-storm.png",
        "t/a venetian-mask.png",
        "t/init-images.png",
    )
    for number, name in enumerate((*skipped, *kept)):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(picture(number))
    rows, summary = score_log(place, tmp_path / "run")
    assert [row["generation_id"].partition("/")[2] for row in rows] == sorted(kept)
    assert summary["skipped"] == {
        "a stage of a generation, by its name": 6,
        "what a generation was given, by its name": 4,
    }
    assert score_log(place / "init-images", tmp_path / "alone")[1]["rows"] == 1


@pytest.mark.parametrize(
    ("tree", "copies", "generations"),
    [
        ("sdnext", ("outputs/save/1.jpg", "outputs/extras/day/1.png"), ("outputs/text/1.png",)),
        ("sdnext/outputs", ("save/1.jpg", "extras/1.png"), ("image/save/1.png", "control/1.png")),
        (
            "a1111",
            ("log/images/1.png", "log/images/log.csv", "outputs/extras-images/1.png", "outputs/saved/1.png"),
            ("outputs/txt2img-images/1.png", "outputs/txt2img-images/log/images/1.png"),
        ),
        (
            "comfy",
            ("temp/a_1_.png", "input/example.png", "Temp/b.png"),
            ("output/a_1_.png", "output/temp/a.png"),
        ),
        ("invoke", ("outputs/images/thumbnails/1.webp",), ("outputs/images/1.png",)),
        ("fooocus", (), ("outputs/2026-11-29/1.png",)),
        ("swarm", ("local/Starred/raw/day/1.png",), ("local/raw/day/1.png",)),
        ("mine", (), ("save/1.png", "log/images/1.png", "extras/1.png", "input/1.png", "temp/1.png")),
    ],
)
def test_copies_upscales_and_previews_of_a_whole_tree_are_no_generations(
    tmp_path, picture, score_log, tree, copies, generations
):
    for number, name in enumerate((*copies, *generations)):
        (tmp_path / tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / tree / name).write_bytes(picture(number))
    rows, summary = score_log(tmp_path / tree, tmp_path / "run")
    place = tree.rpartition("/")[2]
    assert [row["generation_id"] for row in rows] == sorted(f"{place}/{name}" for name in generations)
    assert sum(summary["skipped"].values()) == len(copies)


def test_what_swarmui_writes_beside_a_picture_is_read_and_no_second_one(tmp_path, picture, score_log):
    place = tmp_path / "raw"
    place.mkdir()
    for number, name in enumerate(("0001-a fox-7.gif", "0001-a fox-7.swarmpreview.jpg", "swarmpreview.png")):
        (place / name).write_bytes(picture(number))
    said = {
        "sui_image_params": {"prompt": "a red <lora:x:1> fox", "negativeprompt": "blue"},
        "sui_extra_data": {},
    }
    (place / "0001-a fox-7.swarm.json").write_text(json.dumps(said))
    rows, summary = score_log(place, tmp_path / "run")
    assert [(row["generation_id"], row["prompt_used"]) for row in rows] == [
        ("raw/0001-a fox-7.gif", "a red fox"),
        ("raw/swarmpreview.png", None),
    ]
    assert summary["skipped"] == {"a thumbnail or preview, by its name": 1}


def test_runs_are_no_part_of_a_log(tmp_path, picture, score_log):
    log = tmp_path / "log"
    log.mkdir()
    (log / "a.png").write_bytes(picture(0))
    pq.write_table(pa.table({"image": [picture(1)], "path": ["../a.png"]}), tmp_path / "log.parquet")
    for name, place in (("first", log), ("second", tmp_path / "log.parquet")):
        score_log(place, log / name)
    rows, summary = score_log(log, tmp_path / "third")
    assert [row["generation_id"] for row in rows] == ["log/a.png"]
    assert (summary["ignored"], summary["skipped"]) == ({"a finished or unfinished run over a log": 2}, {})
    told = cli(log, "--bundle", "b", "--out", log / "runs" / "now")
    assert told.returncode == 2 and "now lies in" in told.stderr and not (log / "runs").exists()


def test_a_link_to_a_picture_of_the_folder_counts_once(tmp_path, picture, score_log):
    log, store = tmp_path / "log", tmp_path / "log" / ".store"
    (log / "day").mkdir(parents=True)
    store.mkdir()
    (log / "day" / "00001.png").write_bytes(picture(0))
    (store / "1f3c.png").write_bytes(picture(1))
    (log / "latest.png").symlink_to("day/00001.png")
    # Tools that keep versions store each file elsewhere.
    (log / "a.png").symlink_to(".store/1f3c.png")
    (log / "b.png").symlink_to(".store/1f3c.png")
    rows, summary = score_log(log, tmp_path / "run")
    assert [row["generation_id"] for row in rows] == ["log/a.png", "log/b.png", "log/day/00001.png"]
    assert summary["skipped"]["a symbolic link to a picture that is read itself"] == 1
