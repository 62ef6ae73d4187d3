"""An adopted checkpoint all the way: its own text encoder in the student, and a served bundle at the end."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.cli.bundle import bundle_group
from attributary.encoder.text import PromptTokenizer
from attributary_train.cli import main
from attributary_train.corpus import Corpus
from attributary_train.student.more_pictures import prompts_for_distillation, recombined
from attributary_train.student.words import ClipText, Words
from attributary_train.subject.checkpoint import load_subject
from attributary_train.subject.prompts_split import query_prompts
from tests.support.pipelines import TOKENS, write_checkpoint
from tests.support.towers import TinyImageTower, TinyTextTower

ITEMS = 24
# Captions of any kind: long ones, with commas, without, some more than once.
CAPTIONS = (
    "a red dog, running",
    "two cats",
    "a house by the sea, at dawn, in fog",
    "tree",
    "two cats",
    "blue",
)


def run(*words):
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == 0, f"{words}\n{ran.output}"
    return ran.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Corpus of pictures that are not square, a checkpoint, and the folder adopted from both."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("road")
    (root / "pictures").mkdir()
    with (root / "items.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "caption", "creator"))
        for at in range(ITEMS):
            rng = np.random.default_rng(at)
            size = ((40, 24), (24, 40), (32, 32))[at % 3]
            pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(root / f"pictures/{at}.png")
            rows.writerow((f"{at}.png", CAPTIONS[at % len(CAPTIONS)], "ABC"[at % 3]))
    write_checkpoint(root / "checkpoint", "epsilon")
    run(
        "corpus", "build", "--out", root / "corpus", "--folder", root / "pictures", "--captions", root / "items.csv",
        "--cache", root / "cache", "--workers", 1,
    )  # fmt: skip
    run(
        "subject", "adopt", "--checkpoint", root / "checkpoint", "--corpus", root / "corpus", "--out", root / "subject",
        "--cache", root / "cache",
    )  # fmt: skip
    return root


def test_a_prompt_has_the_same_tokens_and_states_at_the_server(made):
    model = load_subject(made / "subject")
    words = Words(TOKENS, model.text)
    prompts = ["a red dog, running", "tree", "", "two cats in a very long row of many words"]
    ids, mask = words.encode(prompts)
    assert torch.equal(mask.float(), words.mask(prompts))
    states, tower = words.states(prompts), words.tower()
    assert isinstance(tower, ClipText)
    with torch.inference_mode():
        found = tower.states(ids, mask)
    assert torch.allclose(found[mask > 0], states[mask > 0], atol=1e-5)
    # Fewer places give the same states: what comes later is not seen.
    with torch.inference_mode():
        short = tower.states(ids[:1, :6], mask[:1, :6])
    assert torch.allclose(short, found[:1, :6], atol=1e-6)
    assert PromptTokenizer(words.tokenizer(), TOKENS).encode(" ").size == 0


def test_from_a_checkpoint_to_a_served_bundle(made, monkeypatch):
    root = made
    # The untuned image tower is not what this is about, and takes a minute to export.
    for module in ("towers.features", "student.big_model"):
        monkeypatch.setattr(f"attributary_train.{module}.EfficientNetLite0", TinyImageTower)
    monkeypatch.setattr("attributary_train.towers.features.MiniLM", TinyTextTower)
    model = ["--subject", root / "subject", "--corpus", root / "corpus", "--cache", root / "cache"]
    queries = root / "queries.parquet"
    # More queries than captions; a model that was not trained fails its teacher on some of them.
    run(
        "subject", "queries", *model[:4], "--out", queries, "--train", 10, "--validation", 30, "--test", 3, "--steps", 2
    )  # fmt: skip
    run(
        "label", *model, "--queries", queries, "--out", root / "labels", "--split", "train", "--split", "validation",
        "--nearest", 0, "--outside", 0, "--gradient-draws", 4, "--timesteps", 1, "--workers", 1, "--fisher", "diagonal",
    )  # fmt: skip
    asked = [*model, "--queries", queries]
    (root / "config.json").write_text('{"name": "small", "dim": 8, "hidden": 8, "epochs": 2, "batch": 4}')
    student = root / "student"
    run(
        "student",
        "train",
        *asked,
        "--labels",
        root / "labels",
        "--config",
        root / "config.json",
        "--out",
        student,
    )
    fit = ["calibrate", "fit", "--student", student, *asked, "--labels", root / "labels"]
    refused = CliRunner().invoke(main, [str(word) for word in fit])
    assert refused.exit_code == 1
    assert "`subject queries --validation 50` and label that split" in refused.output
    run(*fit, "--false-alarms", 0.1)
    run("demo-queries", *asked, "--split", "test", "--count", 3, "--out", root / "asked")
    out = root / "bundle"
    built = CliRunner().invoke(
        bundle_group,
        [
            str(word)
            for word in (
                "build", "--student", student, "--corpus", root / "corpus", "--queries", root / "asked", "--out", out
            )
        ],
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    engine = open_engine(out)
    picture = next(Path(root / "asked").glob("test-*.png")).read_bytes()
    for prompt in ("", "two cats", "a red dog, running"):
        answer = engine.attribute(Query(image=picture, prompt=prompt), Options(top_k=3))
        assert len(answer.items) == 3
        total = sum(item.share for item in answer.items) + answer.diffuse_share
        assert 0.0 <= total <= 1.0 + 1e-5
    # The prompt is read: by the checkpoint's encoder, inside the bundle's.
    vectors = engine.embed(
        [engine.prepare(Query(image=picture, prompt=p)) for p in ("two cats", "a red dog")]
    )
    assert vectors[0] @ vectors[1] < 0.9999


def test_captions_of_any_kind_give_prompts(made):
    corpus = Corpus.open(made / "corpus")
    ids = [item.id for item in corpus]
    prompts = query_prompts(corpus, ids, (), {"train": 9, "validation": 6, "test": 4}, plain=True)
    by_split = {
        name: {prompt.text for prompt in prompts if prompt.split == name}
        for name in ("train", "validation", "test")
    }
    assert [len([p for p in prompts if p.split == name]) for name in by_split] == [9, 6, 4]
    assert not by_split["train"] & by_split["validation"] and not by_split["train"] & by_split["test"]
    assert len({(prompt.text, prompt.seed) for prompt in prompts}) == len(prompts)
    assert recombined(CAPTIONS, []) == []
    more = prompts_for_distillation(CAPTIONS, ["tree"], 20, others=CAPTIONS)
    assert {prompt.text for prompt in more} == set(CAPTIONS) - {"tree"}
