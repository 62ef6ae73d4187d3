"""Law 3: bytes are the file's bytes, through the holes of sparse members, in every format that GNU tar writes."""

import io
import os
import random
import subprocess

import pytest
from PIL import Image

from tests.support.tars import answered, sha


@pytest.mark.parametrize("form", ["gnu", "posix", "oldgnu", "ustar", "v7"])
@pytest.mark.parametrize("sparse", [True, False])
def test_gnu_tar_in_every_format(tmp_path, picture, score_log, form, sparse):
    if sparse and form in ("ustar", "v7"):
        pytest.skip("this format has no sparse members")
    canvas = Image.new("RGB", (512, 512))
    canvas.paste(Image.open(io.BytesIO(picture(3))).resize((64, 64)), (0, 448))
    canvas.paste(Image.open(io.BytesIO(picture(4))).resize((64, 64)), (448, 0))
    folder = tmp_path / "d"
    folder.mkdir()
    canvas.save(tmp_path / "whole.bmp")
    subprocess.run(["cp", "--sparse=always", tmp_path / "whole.bmp", folder / "a.bmp"], check=True)
    rng = random.Random(0)
    for number in range(6):
        (folder / f"z{number}.png").write_bytes(picture(number) + rng.randbytes(3000))
    os.link(folder / "z0.png", folder / "zz.png")
    names = sorted(path.name for path in folder.iterdir())
    given = ["-S"] if sparse else []
    subprocess.run(
        ["tar", *given, f"--format={form}", "-cf", tmp_path / "t.tar", *names], check=True, cwd=folder
    )
    rows, _ = score_log(tmp_path / "t.tar", tmp_path / "run", rows_per_shard=3)
    assert answered(rows) == {f"t/{name[:-4]}": sha((folder / name).read_bytes()) for name in names}
