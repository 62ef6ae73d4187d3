"""The report: figures that hold, a page that fetches nothing and believes nothing that a log says."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from attributary.attribution.types import Filter
from attributary.batch.report_data import gather
from attributary.batch.report_page import generation_pictures, page, plots_of, wilson
from attributary.batch.run import shard_tables
from attributary.cli.report import report_command
from attributary.errors import InputError, OutputError, RunError


class Page(HTMLParser):
    """Collects tags, what they point to, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "data")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def finished(log, tmp_path, run_score):
    run_score(log, tmp_path / "run")
    return tmp_path / "run"


def rows_of(directory):
    return [row for table in shard_tables(directory) for row in table.to_pylist()]


def test_totals_lie_in_their_intervals(finished):
    data = gather(finished)
    told = pq.read_table(finished / "creators.parquet").to_pylist()
    assert [(total.name, total.share) for total in data.creators] == [
        (row["creator"], row["share"]) for row in told
    ]
    for total in data.creators:
        assert 0 <= total.low <= total.share <= total.high <= 47
    sum_, low, high = data.diffuse
    assert low <= sum_ <= high
    assert data.top_share.sum() == data.diffuse_share.sum() == 47


def test_intervals_are_as_wide_as_the_sum_of_independent_rows_varies(finished):
    data = gather(finished, resamples=4000, seed=5)
    rows = rows_of(finished)
    for total in data.creators:
        shares = np.array(
            [sum(part["share"] for part in row["creators"] if part["creator"] == total.name) for row in rows]
        )
        # Of the sum of n draws from these rows: sqrt(n) times their standard deviation.
        wanted = 2 * 1.96 * shares.std() * math.sqrt(len(shares))
        assert total.high - total.low == pytest.approx(wanted, rel=0.12)


def test_given_diffuse_and_withheld_are_all_that_was_answered(finished, log, tmp_path, run_score):
    first = pq.read_table(finished / "creators.parquet")["creator"][0].as_py()
    run_score(log, tmp_path / "hidden", filter=Filter(exclude_creators=(first,)))
    data = gather(tmp_path / "hidden")
    table = Page(page(data, "t", {}, lambda item: None)).text
    told = [
        float(re.search(rf"{name}\s*([\d.]+) \(", table)[1]) for name in ("creators", "diffuse", "withheld")
    ]
    assert told[2] > 1
    assert sum(told) == pytest.approx(data.known, abs=0.16)


def test_the_same_seed_gives_the_same_page(finished):
    one, two = (page(gather(finished, seed=3), "t", {}, lambda item: None) for _ in range(2))
    assert one == two
    assert page(gather(finished, seed=4), "t", {}, lambda item: None) != one


def test_most_and_least_certain(finished):
    data = gather(finished, examples=3)
    ordered = sorted(rows_of(finished), key=lambda row: row["diffuse_share"])
    most = [example.values["diffuse_share"] for example in data.most_certain]
    least = [example.values["diffuse_share"] for example in data.least_certain]
    assert most == [row["diffuse_share"] for row in ordered[:3]]
    assert least == [row["diffuse_share"] for row in ordered[:-4:-1]]


def test_slices_by_position_and_by_time(tmp_path, run_score, log_table):
    images = pa.array([b"junk"] * 20 + log_table(20, 20)["image"].to_pylist(), pa.binary())
    days = pa.array([1_700_000_000 + 86_400 * (number // 10) for number in range(40)], pa.timestamp("s"))
    pq.write_table(log_table(0, 40, image=images, day=days), tmp_path / "log.parquet")
    run_score(tmp_path / "log.parquet", tmp_path / "run")
    slices = gather(tmp_path / "run").slices
    assert [part.rows for part in slices] == [10, 10, 10, 10]
    assert [part.errors for part in slices] == [10, 10, 0, 0]
    assert [part.answered for part in slices] == [0, 0, 10, 10]
    timed = gather(tmp_path / "run", time_column="day").slices
    assert sum(part.rows for part in timed) == 40
    assert timed[0].label == "2023-11-14 22:13:20"
    assert [part.errors for part in timed][:2] == [10, 10]
    with pytest.raises(InputError, match="column hour: did not pass through"):
        gather(tmp_path / "run", time_column="hour")
    with pytest.raises(InputError, match="must be a time"):
        gather(tmp_path / "run", time_column="generation_id")


def test_the_page_fetches_nothing(finished, log):
    data = gather(finished)
    shown = [*data.most_certain, *data.least_certain]
    pictures = generation_pictures(data.run, [log], shown)
    assert len(pictures) == len({(example.shard, example.row) for example in shown})
    found = Page(page(data, "run", pictures, lambda item: None))
    assert not {"script", "link", "iframe", "object", "form"} & set(found.tags)
    assert found.tags.count("svg") == 4
    assert len(found.links) >= 6
    assert all(link.startswith("data:image/jpeg;base64,") for link in found.links)
    assert "47" in found.text


def test_hostile_logs_stay_text(tmp_path, run_score, log_table):
    evil = "<script>alert(1)</script>'\"&\x00\x1b"
    table = log_table(0, 4, prompt=[evil] * 4, generation_id=[f"{evil}{number}" for number in range(4)])
    pq.write_table(table, tmp_path / "log.parquet")
    run_score(tmp_path / "log.parquet", tmp_path / "run")
    text = page(gather(tmp_path / "run"), evil, {}, lambda item: None)
    assert "script" not in Page(text).tags
    assert "<script>" not in text


def test_plots_are_well_formed_whatever_creators_are_called(finished):
    data = gather(finished)
    data.creators[0] = replace(data.creators[0], name='<b> & "x" \' \x07 é 漢字' * 3)
    for svg in plots_of(data).values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_a_run_without_rows_or_answers_has_a_page(tmp_path, run_score, log_table):
    pq.write_table(log_table(0, 0), tmp_path / "none.parquet")
    run_score(tmp_path / "none.parquet", tmp_path / "none")
    junk = log_table(0, 3, image=pa.array([b"junk"] * 3, pa.binary()))
    pq.write_table(junk, tmp_path / "junk.parquet")
    run_score(tmp_path / "junk.parquet", tmp_path / "junk")
    for run in ("none", "junk"):
        data = gather(tmp_path / run)
        for svg in plots_of(data).values():
            ElementTree.fromstring(svg)
        assert "error rows" in page(data, run, {}, lambda item: None)


def test_pictures_that_were_changed_since_are_not_shown(tmp_path, run_score, picture):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number))
    run_score(folder, tmp_path / "run")
    data = gather(tmp_path / "run", examples=4)
    (folder / "2.png").write_bytes(picture(9))
    shown = generation_pictures(data.run, [folder], data.most_certain)
    assert sorted(shown) == [(0, 0), (0, 1), (0, 3)]
    with pytest.raises(RunError, match="the run had pictures, which is not among them"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "a.png").write_bytes(picture(0))
        generation_pictures(data.run, [tmp_path / "other"], data.most_certain)


def test_strangers_count_in_totals_only_if_they_are_asked_for(tmp_path, run_score, picture):
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.choice(np.array([0, 255], np.uint8), (64, 64, 3)))
    out = BytesIO()
    noise.save(out, "PNG")
    rows = [{"image": picture(number), "prompt": "a red ellipse"} for number in range(5)]
    rows += [{"image": out.getvalue(), "prompt": ""} for _ in range(7)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    run_score(tmp_path / "log.parquet", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["out_of_distribution"] == 7
    data, everything = gather(tmp_path / "run"), gather(tmp_path / "run", with_foreign=True)
    assert (data.known, everything.known) == (5, 12)
    assert (int(data.diffuse_share.sum()), int(everything.diffuse_share.sum())) == (5, 12)
    assert data.diffuse[0] == pytest.approx(everything.diffuse[0] - 7, abs=1e-4)


def test_rows_without_an_answer_are_listed_and_long_names_are_whole(tmp_path, run_score, picture):
    rows = [{"image": picture(number), "prompt": "a red ellipse"} for number in range(5)]
    rows += [{"image": b"no picture", "prompt": ""} for _ in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    run_score(tmp_path / "log.parquet", tmp_path / "run")
    finished = tmp_path / "run"
    data = gather(finished)
    wrong = [row for row in rows_of(finished) if row["error_code"]]
    assert [one.values["generation_id"] for one in data.errors] == [row["generation_id"] for row in wrong][
        :20
    ]
    name = "The Very Long Name Of A Collective, " * 6 + "whole"
    data.creators[0] = replace(data.creators[0], name=name)
    text = page(data, "t", {}, lambda _: None, lambda item: f"caption of {item}")
    shown = Page(text).text
    assert all(part in shown for part in (name[:100], name[100:200], name[200:]))
    assert wrong[0]["error_message"] in shown
    prompts = [one.values["prompt_used"] for one in data.most_certain if one.values["prompt_used"]]
    assert prompts and all(prompt[:100] in shown for prompt in prompts)
    assert "caption of 1" in shown
    assert "name='viewport'" in text and "sum of shares, in generations" in shown


def test_an_unfinished_run_has_no_report(finished):
    (finished / "summary.json").unlink()
    with pytest.raises(OutputError, match="is no finished run"):
        gather(finished)


def test_wilson():
    rate, low, high = wilson(3, 50)
    assert rate == 0.06
    # Wilson's interval of 3 in 50 (Brown, Cai, DasGupta 2001 give the formula).
    assert (low, high) == (pytest.approx(0.0206, abs=2e-4), pytest.approx(0.1622, abs=2e-4))
    assert wilson(0, 10)[1] == 0
    assert math.isnan(wilson(0, 0)[0])


def test_command(finished, log, tiny_corpus_dir, tmp_path):
    done = CliRunner().invoke(
        report_command,
        [str(finished), "--inputs", str(log), "--corpus", str(tiny_corpus_dir), "--plots", str(tmp_path / "plots"),
         "--out", str(tmp_path / "page.html"), "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)["creators"]) == 4
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["creators.svg", "diffuse-share.svg", "rates.svg", "top-share.svg"]
    # 12 examples, each with its picture and 4 items'.
    assert len(Page((tmp_path / "page.html").read_text()).links) == 12 * 5
