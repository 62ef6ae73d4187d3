"""The data-set maker: the same bytes after any interruption, and refusals by name."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from attributary_train.customization.gallery import open_gallery
from attributary_train.customization.maker import _left, finish, make, prepare
from attributary_train.customization.maker_worker import Maker, failure
from attributary_train.customization.plan import MakeSettings, Plan, with_prompts
from attributary_train.customization.shards import read_shard
from attributary_train.customization.tuning import TuneSettings
from attributary_train.errors import CustomizationError, SubjectError
from attributary_train.jobs import MAX_STARTS, attempt


def quiet(line):
    pass


@pytest.fixture
def begun(toy, made, tmp_path):
    """A copy of the data set without four of its shards."""
    folder = tmp_path / "data"
    shutil.copytree(made, folder)
    (folder / "manifest.json").unlink()
    plan = Plan.read(folder)
    for entry in plan.planned[3:7]:
        plan.shard(folder, entry).unlink()
    return folder


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def test_what_is_made(toy, made):
    plan = Plan.read(made)
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["pictures"] == 4 * len(plan.planned) == 60
    assert manifest["failed"] == {}
    assert manifest["counts"]["object test unseen"] == 2
    shard = read_shard(plan.shard(made, plan.planned[0]), plan.planned[0])
    assert shard.tuned.shape == shard.untuned.shape == (4, 32, 32, 3)
    assert (shard.tuned != shard.untuned).any()
    assert shard.facts["subject"] == plan.weights
    digests = {read_shard(plan.shard(made, e), e).facts["weights"] for e in plan.planned}
    assert len(digests) == len(plan.planned)


def test_prompts_belong_to_the_exemplar_not_to_the_data_set(made):
    plan = Plan.read(made)
    chosen = [entry.exemplar for entry in plan.planned]
    names = ["a tree", "a house", "a cat", "a hat", "a cup"]
    together = with_prompts(chosen, names, plan.settings)
    assert with_prompts(chosen[5:6], names, plan.settings)[0] == together[5]
    assert len({entry.seeds for entry in together}) == len(together)


def test_another_start_gives_the_same_bytes(toy, made, begun):
    maker = Maker(begun)
    for entry in reversed(maker.plan.planned):
        assert attempt(maker, entry.name)
    finish(begun, maker.plan, quiet)
    assert shards(begun) == shards(made)
    assert (begun / "manifest.json").read_bytes() == (made / "manifest.json").read_bytes()


def test_a_killed_maker_goes_on_with_the_same_bytes(toy, made, begun):
    code = "import sys; from attributary_train.customization.maker_worker import main; sys.exit(main(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(begun)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    plan = Plan.read(begun)
    deadline = time.monotonic() + 250
    try:
        while len(_left(begun, plan)) > 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert _left(begun, plan)
    maker = Maker(begun)
    for entry in plan.planned:
        assert attempt(maker, entry.name)
    assert {name: raw for name, raw in shards(begun).items() if not name.startswith(".")} == shards(made)


@pytest.mark.slow
def test_workers_make_the_same_bytes(toy, made, begun):
    manifest = make(toy.job(begun), toy.settings, workers=2, log=quiet)
    assert manifest["pictures"] == 60
    assert shards(begun) == shards(made)


def test_a_folder_that_was_begun_with_something_else_is_refused(toy, made):
    for name, other in (
        ("settings", dataclasses.replace(toy.settings, pictures=5)),
        ("settings", dataclasses.replace(toy.settings, styles=TuneSettings(steps=4))),
    ):
        with pytest.raises(CustomizationError, match=f"begun with another value of {name}"):
            prepare(toy.job(made), other, quiet)
    job = dataclasses.replace(toy.job(made), choice=dataclasses.replace(toy.choice, seed=5))
    with pytest.raises(CustomizationError, match="begun with another value of exemplars"):
        prepare(job, toy.settings, quiet)


def test_an_exemplar_that_cannot_be_read_is_named(toy, made, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(toy.corpus.root, corpus)
    entry = Plan.read(made).planned[0]
    next(corpus.glob(f"images/*/{entry.exemplar.ids[0]}.png")).write_bytes(b"no picture")
    job = dataclasses.replace(
        toy.job(tmp_path / "data"),
        corpus=corpus,
        exemplars=tuple(e.exemplar for e in Plan.read(made).planned),
    )
    with pytest.raises(CustomizationError, match=f"exemplar {entry.name}: .*not readable"):
        prepare(job, toy.settings, quiet)
    assert not (tmp_path / "data" / "plan.json").exists()


def test_a_model_without_cross_attention_is_refused(toy, tmp_path):
    from diffusers import UNet2DConditionModel

    subject = tmp_path / "subject"
    shutil.copytree(toy.subject, subject)
    shutil.rmtree(subject / "unet")
    UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    ).save_pretrained(subject / "unet")
    with pytest.raises(SubjectError, match="not conditioned on text"):
        prepare(dataclasses.replace(toy.job(tmp_path / "data"), subject=subject), toy.settings, quiet)


def test_what_fails_is_recorded_and_left_out(toy, begun, monkeypatch):
    maker = Maker(begun)
    broken, dying = maker.plan.planned[3], maker.plan.planned[4]
    real = maker.customizer.customize

    def customize(entry, captions):
        if entry is broken:
            raise RuntimeError("out of luck")
        return real(entry, captions)

    monkeypatch.setattr(maker.customizer, "customize", customize)
    (begun / "locks" / f"{dying.name}.starts").write_text(str(MAX_STARTS))
    for entry in maker.plan.planned:
        assert attempt(maker, entry.name)
    assert failure(begun, broken.name) == "out of luck"
    assert "died 3 times" in failure(begun, dying.name)
    told = []
    manifest = finish(begun, maker.plan, told.append)
    assert set(manifest["failed"]) == {broken.name, dying.name}
    assert any("out of luck" in line for line in told)
    gallery = open_gallery(begun, 20)
    assert len(gallery.exemplars) == 13 and len(gallery.pictures) == 52


def test_damage_is_named(toy, begun):
    plan = Plan.read(begun)
    with pytest.raises(CustomizationError, match="4 exemplars are not made yet"):
        open_gallery(begun, 20)
    path = plan.shard(begun, plan.planned[0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CustomizationError, match="not a readable shard"):
        read_shard(path, plan.planned[0])
    other = plan.shard(begun, plan.planned[1])
    with pytest.raises(CustomizationError, match="other prompts or seeds"):
        read_shard(other, plan.planned[0])
    (begun / "plan.json").write_text("{")
    with pytest.raises(CustomizationError, match="not a plan"):
        Plan.read(begun)
    with pytest.raises(CustomizationError, match=r"settings\.pictures"):
        MakeSettings(pictures=0)
    with pytest.raises(CustomizationError, match="workers: 0"):
        make(toy.job(begun), toy.settings, workers=0)


def test_a_gallery(toy, made):
    gallery = open_gallery(made, 30)
    corpus = toy.corpus
    own = {number for e in gallery.exemplars for number in e.ids}
    distractors = [int(gallery.ids[row]) for row in gallery.distractor_rows]
    assert len(distractors) == 30 and not own & set(distractors)
    assert set(toy.known) <= set(distractors)
    assert {gallery.exemplars[at].split for at in gallery.whose[gallery.rows("test")]} == {"test"}
    for at, exemplar in enumerate(gallery.exemplars):
        assert [int(gallery.ids[row]) for row in gallery.exemplar_rows[at]] == list(exemplar.ids)
        rivals = gallery.rivals(at)
        names = [corpus.item(number).creator for number in distractors]
        assert (
            rivals.all()
            if exemplar.kind == "object"
            else not any(name == exemplar.label for name, kept in zip(names, rivals, strict=True) if kept)
        )
    with pytest.raises(CustomizationError, match="distractors: 500 wanted"):
        open_gallery(made, 500)
    Image.fromarray(gallery.item_pictures[0])
