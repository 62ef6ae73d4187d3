"""Law 1 for tars: every member is a row, part of one, or counted."""

import io
import shutil
import subprocess
import tarfile

import pytest
from PIL import Image

from attributary.batch.plan import make_plan
from attributary.batch.settings import Settings
from attributary.errors import InputError
from tests.support.tars import add, answered, sha, write


def test_names_with_no_odd_and_dotted_stems(tmp_path, picture, score_log):
    names = ["a.b.png", "v1.0_cat.png", "v1.0_dog.png", ".png", "deep/er/x.PNG", "noending", "a b.png", "image.v2.jpg",
             "café.png", "two..dots.png", "x.jfif", "0.5.png", "0.7.png"]  # fmt: skip
    members = [(name, picture(number)) for number, name in enumerate(names)]
    members += [("v1.0_dog.txt", b"a dog"), ("nothing", b"no picture")]
    # A sample's texts stand beside it.
    members.insert(3, members.pop(-2))
    rows, summary = score_log(write(tmp_path / "t.tar", members), tmp_path / "run")
    assert sorted(answered(rows).values()) == sorted(sha(picture(number)) for number in range(len(names)))
    assert summary["skipped"] == {"has no ending": 1}
    assert {row["prompt_used"] for row in rows if row["generation_id"].endswith("v1.0_dog")} == {"a dog"}


def test_dotted_names_are_cut_into_shards_anywhere(tmp_path, picture, score_log):
    # One base name by the format's rule for all of them: groups are longer than shards.
    members = [(f"run.{number}.png", picture(number % 50)) for number in range(150)]
    rows, _ = score_log(write(tmp_path / "t.tar", members), tmp_path / "run", rows_per_shard=7)
    assert [row["image_sha256"] for row in rows] == [sha(data) for _, data in members]


def test_fields_of_a_sample_are_no_generations(tmp_path, picture, score_log):
    members = [
        ("000.seg.png", picture(1)), ("000.jpg", picture(0)), ("000.cls", b"3"), ("000.txt", b"a cat"),
        ("001.png", picture(2)), ("001.webp", picture(3)), ("001.npy", b"x"), ("lonely.npy", b"x"),
        ("002.png", picture(4)), ("002.png.txt", b"a dog"),
    ]  # fmt: skip
    rows, summary = score_log(write(tmp_path / "t.tar", members), tmp_path / "run")
    assert answered(rows) == {"t/000": sha(picture(0)), "t/001": sha(picture(2)), "t/002": sha(picture(4))}
    assert [row["prompt_used"] for row in rows] == ["a cat", None, "a dog"]
    assert summary["skipped"] == {
        "a further picture of its sample": 2,
        "its ending .npy is not read here": 1,
    }


@pytest.mark.parametrize("dots", [False, True])
def test_of_several_pictures_of_a_key_one_that_is_decoded_is_taken(tmp_path, picture, score_log, dots):
    stem = "{} 1.5" if dots else "{}"
    with Image.open(io.BytesIO(picture(0))) as opened:
        files = {}
        for last, kind in {"tiff": "TIFF", "jfif": "JPEG", "png": "PNG", "avif": "AVIF"}.items():
            stream = io.BytesIO()
            opened.convert("RGB").save(stream, kind)
            files[last] = stream.getvalue()
    several = [
        ("a", "tiff jfif"),
        ("b", "heic png"),
        ("c", "png heic"),
        ("d", "avif tiff png"),
        ("e", "tiff"),
    ]
    members = [
        (f"{stem.format(key)}.{last}", files.get(last, b"ftypheic"))
        for key, lasts in several
        for last in lasts.split()
    ]
    rows, summary = score_log(write(tmp_path / "t.tar", members), tmp_path / "run")
    wanted = {"a": "jfif", "b": "png", "c": "png", "d": "avif"}
    assert answered(rows) == {f"t/{stem.format(key)}": sha(files[last]) for key, last in wanted.items()}
    assert [row["generation_id"] for row in rows if row["error_code"]] == [f"t/{stem.format('e')}"]
    assert summary["skipped"] == {"a further picture of its sample": 5}
    assert summary["rows"] + 5 == len(members)


def test_links_directories_and_devices(tmp_path, picture, score_log):
    members = [
        ("d", b"", tarfile.DIRTYPE), ("d/a.png", picture(0)),
        ("hard.png", b"", tarfile.LNKTYPE, "d/a.png"), ("d/soft.png", b"", tarfile.SYMTYPE, "a.png"),
        ("chain.png", b"", tarfile.SYMTYPE, "d/soft.png"), ("ahead.png", b"", tarfile.SYMTYPE, "./z.png"),
        ("out.png", b"", tarfile.SYMTYPE, "/etc/passwd"), ("up.png", b"", tarfile.SYMTYPE, "../../etc/passwd"),
        ("loop.png", b"", tarfile.SYMTYPE, "loop.png"), ("bare", b"", tarfile.LNKTYPE, "d/a.png"),
        ("dev.png", b"", tarfile.CHRTYPE), ("z.png", picture(1)),
        (".store/1f", picture(2)), ("kept.png", b"", tarfile.SYMTYPE, ".store/1f"), ("kept.txt", b"a fox"),
        ("grids/1.png", picture(3)), ("mine.png", b"", tarfile.SYMTYPE, "grids/1.png"),
    ]  # fmt: skip
    rows, summary = score_log(write(tmp_path / "t.tar", members), tmp_path / "run", rows_per_shard=2)
    first, last = sha(picture(0)), sha(picture(1))
    # As in a folder: a symbolic link to a picture that is read itself (latest.png) is no second generation.
    assert answered(rows) == {
        "t/d/a": first, "t/hard": first, "t/z": last, "t/bare": first, "t/kept": sha(picture(2)),
        "t/mine": sha(picture(3)),
    }  # fmt: skip
    assert {row["generation_id"] for row in rows if row["error_code"]} == {"t/out", "t/up", "t/loop"}
    assert all("not in the tar" in row["error_message"] for row in rows if row["error_code"])
    assert summary["skipped"] == {
        "a device or pipe in a tar": 1,
        "a grid of pictures, by its name": 1,
        "a symbolic link to a picture that is read itself": 3,
    }
    assert summary["ignored"] == {
        "a directory in a tar": 1,
        "hidden: a name that begins with a dot or an underscore": 1,
    }


def test_joined_by_cat(tmp_path, picture, score_log):
    parts = [
        write(
            tmp_path / f"{part}.tar",
            [(f"{part}{number}.png", picture(10 * part + number)) for number in range(5)],
        )
        for part in range(3)
    ]
    whole = tmp_path / "whole" / "t.tar"
    whole.parent.mkdir()
    whole.write_bytes(b"".join(part.read_bytes() for part in parts) + b"trailing garbage" * 100)
    rows, summary = score_log(whole, tmp_path / "run")
    assert len(answered(rows)) == 15
    assert summary["skipped"] == {"bytes behind the end of a tar that are no tar": 1}


@pytest.mark.parametrize("command", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed(tmp_path, picture, score_log, command):
    if shutil.which(command) is None:
        pytest.skip(f"needs {command}")
    members = [(f"{number:03d}.png", picture(number)) for number in range(9)]
    members.insert(5, ("link.png", b"", tarfile.LNKTYPE, "000.png"))
    path = write(tmp_path / "t.tar", members)
    subprocess.run([command, "-q", str(path)], check=True)
    path.unlink(missing_ok=True)
    (packed,) = tmp_path.glob("t.tar*")
    rows, _ = score_log(packed, tmp_path / "run")
    assert answered(rows) == {
        f"t/{name[:-4]}": sha(data) if data else sha(picture(0)) for name, data, *_ in members
    }
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    with pytest.raises(InputError, match=r"t\.tar"):
        make_plan([packed], Settings())


def test_long_names_and_global_headers(tmp_path, picture, score_log):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 900}) as tar:
        for number in range(9):
            add(tar, f"{'very-long-' * 30}{number}.png", picture(number))
    rows, _ = score_log(path, tmp_path / "run")
    assert list(answered(rows).values()) == [sha(picture(number)) for number in range(9)]


def test_hidden_bookkeeping_thumbnails_and_grids(tmp_path, picture, score_log):
    members = [
        ("a.png", picture(0)), ("._a.png", b"x"), (".hidden/b.png", picture(1)), ("_SUCCESS", b""),
        ("thumbnails/a.png", picture(1)), ("grid-0001.png", picture(2)), ("txt2img-grids/1.png", picture(3)),
        ("a_thumb.png", picture(4)), ("README.md", b"x"), ("metadata.csv", b"x"),
    ]  # fmt: skip
    rows, summary = score_log(write(tmp_path / "t.tar", members), tmp_path / "run")
    assert list(answered(rows)) == ["t/a"]
    assert sum(summary["skipped"].values()) == 6
    assert sum(summary["ignored"].values()) == 3
    assert summary["skipped"]["a grid of pictures, by its name"] == 2
    assert summary["skipped"]["a thumbnail or preview, by its name"] == 2


def test_shards_of_the_webdataset_library(tmp_path, picture, score_log):
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset")
    for pattern, compress in (("plain-%04d.tar", False), ("packed-%04d.tar.gz", True)):
        out = tmp_path / pattern.partition("-")[0]
        out.mkdir()
        with webdataset.ShardWriter(str(out / pattern), maxcount=5, verbose=0) as sink:
            for number in range(12):
                sink.write(
                    {
                        "__key__": f"part/{number:06d}",
                        "png": picture(number),
                        "txt": f"a drawing {number}",
                        "json": {"model_id": "m", "seed": number},
                        "seg.png": picture(number + 20),
                        "cls": number,
                    }
                )
        rows, summary = score_log(out, tmp_path / f"run-{compress}")
        assert [row["image_sha256"] for row in rows] == [sha(picture(number)) for number in range(12)]
        assert [row["prompt_used"] for row in rows] == [f"a drawing {number}" for number in range(12)]
        assert {row["model_id"] for row in rows} == {"m"}
        assert summary["skipped"] == {"a further picture of its sample": 12}
