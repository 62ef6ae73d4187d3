"""Money out of a run's totals: not a unit lost, nobody paid for strangers, nothing a spreadsheet runs."""

import csv
import io
import json
import resource
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from attributary.cli.main import cli
from attributary.errors import InvalidArgumentError, OutputError
from attributary.receipts import money
from attributary.receipts.payout import Terms, payout
from attributary.receipts.payout_words import csv_bytes, method, page, totals


def euros(pool, **more):
    return Terms(Decimal(pool), "EUR", **more)


def whole(statement):
    return sum((line.amount for line in statement.lines), Decimal(0)) + sum(
        amount for _, amount in statement.rest
    )


@given(
    st.integers(1, 10**12),
    st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=50).filter(any),
    st.sampled_from([0, 2, 3]),
)
@settings(max_examples=200, deadline=None)
def test_no_unit_is_lost_whatever_is_divided(units, weights, digits):
    pool = Decimal(units).scaleb(-digits)
    exact = [Fraction(weight) for weight in weights]
    parts = money.divide(pool, exact, digits)
    assert sum(parts) == pool
    for part, weight in zip(parts, exact, strict=True):
        assert abs(Fraction(part) - Fraction(pool) * weight / sum(exact)) < Fraction(1, 10**digits)
        assert part == round(part, digits) >= 0


def test_a_pool_is_divided_by_parts_of_all_pictures(write_run):
    run = write_run({"Ann": 3.0, "Bo": 1.0}, answered=10, foreign=2, withheld=0.5)
    statement = payout(run, euros("1000.00"))
    assert [(line.creator, line.amount, line.status) for line in statement.lines] == [
        ("Ann", Decimal("300.00"), "paid"),
        ("Bo", Decimal("100.00"), "paid"),
    ]
    assert [amount for _, amount in statement.rest] == [
        Decimal("350.00"),
        Decimal("50.00"),
        Decimal("200.00"),
    ]
    assert whole(statement) == 1000


def test_thirds_of_a_pool_add_up(write_run):
    statement = payout(write_run({"A": 1 / 3, "B": 1 / 3, "C": 1 / 3}, answered=1), euros("100.00"))
    assert sorted(line.amount for line in statement.lines) == [
        Decimal("33.33"),
        Decimal("33.33"),
        Decimal("33.34"),
    ]
    assert whole(statement) == 100


def test_strangers_pay_nobody(write_run):
    run = write_run({"Ann": 0.0}, answered=4, foreign=4, columns={"share": [3.0]})
    statement = payout(run, euros("1000.00"))
    assert statement.total("paid") == 0
    assert dict(statement.rest)["pictures that resemble nothing known"] == 1000


def test_excluding_raises_nobody_and_the_nameless_are_not_paid(write_run):
    run = write_run({"Ann": 5.0, "Bo": 1.0, "unknown": 2.0}, answered=10)
    before = payout(run, euros("1000.00"))
    after = payout(run, euros("1000.00", excluded=frozenset({"Ann"})))
    assert [line.amount for line in before.lines] == [line.amount for line in after.lines]
    assert {line.creator: line.status for line in after.lines} == {
        "Ann": "excluded",
        "Bo": "paid",
        "unknown": "no payee",
    }
    assert (after.total("paid"), after.total("excluded"), after.total("no payee")) == (100, 500, 200)
    with pytest.raises(InvalidArgumentError, match="no creator 'Zoe'"):
        payout(run, euros("1000.00", excluded=frozenset({"Zoe"})))


def test_intervals_are_told_where_a_run_has_them(write_run):
    columns = {"low": [2.0, None], "high": [12.0, None]}
    lines = payout(write_run({"Ann": 5.0, "Bo": 1.0}, columns=columns), euros("1000.00")).lines
    assert [line.interval for line in lines] == [(Decimal("200.00"), Decimal("1000.00")), None]
    assert payout(write_run({"Ann": 5.0}), euros("1000.00")).lines[0].interval is None


def test_totals_that_somebody_edited_are_refused(write_run):
    run = write_run({"Ann": 5.0})
    table = pq.read_table(run / "creators.parquet")
    pq.write_table(table.set_column(2, "share_in_distribution", pa.array([9.0])), run / "creators.parquet")
    with pytest.raises(OutputError, match=r"creators\.parquet"):
        payout(run, euros("1000.00"))
    (run / "creators.parquet").unlink()
    with pytest.raises(OutputError, match=r"is .* a finished run"):
        payout(run, euros("1000.00"))
    (run / "summary.json").write_text("{}")
    with pytest.raises(OutputError):
        payout(run, euros("1000.00"))
    with pytest.raises(InvalidArgumentError, match="no answered generation"):
        payout(write_run({}, answered=0), euros("1000.00"))


def test_shares_whose_float_sum_is_above_one_are_not_paid_twice(write_run):
    statement = payout(write_run({"Ann": 0.7000001, "Bo": 0.3000001}, answered=1), euros("1000000.00"))
    assert whole(statement) == 1_000_000


HOSTILE = (
    "\uff1d1+1",
    "\uff20SUM(A1)",
    '=HYPERLINK("http://x")',
    "+1",
    "-2",
    "@SUM(A1)",
    "\t=1",
    "Ann, Bo",
    'A"nn',
    "<script>alert(1)</script>",
    "\u202eevil",
    "a\nb",
)


def test_no_name_is_a_formula_or_markup(write_run):
    statement = payout(write_run(dict.fromkeys(HOSTILE, 1.0)), euros("1000.00"))
    rows = list(csv.reader(io.StringIO(csv_bytes(statement).decode())))
    names = [row[0] for row in rows[1 : len(HOSTILE) + 1]]
    assert len({len(row) for row in rows}) == 1
    assert not [name for name in names if name[:1] in "=+-@\t\r\n\uff1d\uff20"]
    told = page(statement, "<b>title</b>", ["<i>words</i>"])
    assert "<script" not in told
    assert "<b>" not in told
    assert "<i>" not in told
    assert "\u202e" not in told
    assert "default-src 'none'" in told


def test_the_words_say_how_good_shares_are(write_run, tiny_engine):
    statement = payout(write_run({"Ann": 5.0}), euros("1000.00"))
    assert "cannot say" in method(statement, None)[-1]
    told = " ".join(method(statement, tiny_engine.bundle.manifest))
    assert tiny_engine.bundle.manifest.calibration.method in told
    assert "not fitted to measured influence" in told
    assert "No skill of these shares against a constant was measured" in told
    skill = {"skill": {"image_and_prompt": {"creators, Brier": {"skill": 0.725, "low": 0.617, "high": 0.8}}}}
    notes = {
        "calibration_labels_digest": "00",
        "measured": json.dumps({"held_out": {"queries": 100, **skill}}),
    }
    told = " ".join(method(statement, replace(tiny_engine.bundle.manifest, notes=notes)))
    assert "perfect: with the prompt, creators, Brier 0.72 [0.62, 0.80]." in told
    assert "not fitted to measured influence" not in told


def test_the_verb_writes_every_form(write_run):
    pytest.importorskip("reportlab")
    run = write_run({"Ann": 5.0, "\u5c71\u7530": 1.0, **{f"creator {number}": 0.01 for number in range(60)}})
    words = ["payout", str(run), "--pool", "1000", "--currency", "EUR", "--minimum", "5", "--pdf"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.output.splitlines()[:-1])
    assert "500.00 EUR  paid" in result.output
    told = json.loads((run / "payout" / "payout.json").read_text())
    amounts = [Decimal(line["amount"]) for line in (*told["creators"], *told["unattributed"])]
    assert sum(amounts) == 1000
    pdf = (run / "payout" / "payout.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    CliRunner().invoke(cli, words, catch_exceptions=False)
    assert (run / "payout" / "payout.pdf").read_bytes() == pdf
    result = CliRunner().invoke(cli, [*words, "--font", str(run / "summary.json")])
    assert "font" in str(result.exception)
    result = CliRunner().invoke(cli, [*words, "--bundle", str(run)])
    assert "manifest.json" in str(result.exception)


def test_a_statement_is_written_whole_or_not_at_all(write_run, tmp_path):
    """Half of payout.csv had been left under its name where a disk was full."""
    words = [
        "payout",
        str(write_run({"Ann": 5.0})),
        "--pool",
        "1000",
        "--currency",
        "EUR",
        "--out",
        str(tmp_path / "out"),
    ]
    CliRunner().invoke(cli, words, catch_exceptions=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_run({f"creator {number}": 0.001 for number in range(9_999)})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        error = CliRunner().invoke(cli, words).exception
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "payout.csv cannot be written: File too large" in str(error)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_became_of_the_pool_adds_up(write_run):
    run = write_run({"Ann": 5.0, "Bo": 0.01, "Cy": 1.0, "unknown": 1.0}, foreign=1, withheld=0.7)
    terms = euros(
        "999.99", minimum=Decimal("5.00"), excluded=frozenset({"Cy"}), brought={"Bo": Decimal("1.00")}
    )
    told = dict(totals(payout(run, terms)))
    pool, brought = told.pop("pool"), told.pop("brought forward from the statement before")
    assert pool + brought == sum(told.values())


def test_intervals_are_read_from_the_columns_that_runs_write():
    """Statements looked for columns that no run has ever had."""
    from attributary.batch.job import CREATOR_COLUMNS
    from attributary.receipts.payout import _INTERVAL

    assert set(_INTERVAL) < set(CREATOR_COLUMNS)


def test_a_creator_in_two_spellings_is_paid_once_and_excluded_whole(write_run):
    composed, apart = "Zo\u00eb", "Zoe\u0308 "
    run = write_run({composed: 2.0, apart: 1.0, "Ada": 1.0}, columns={"low": [1.0] * 3, "high": [2.0] * 3})
    brought = {apart: Decimal(3), composed: Decimal(4)}
    by_name = {line.creator: line for line in payout(run, euros(100, brought=brought)).lines}
    assert set(by_name) == {composed, "Ada"}
    assert (by_name[composed].amount, by_name[composed].brought) == (Decimal(30), Decimal(7))
    assert by_name[composed].interval == (Decimal(20), Decimal(40))
    for name in brought:
        statement = payout(run, euros(100, excluded=frozenset({name})))
        assert {line.creator for line in statement.lines if line.status == "excluded"} == {composed}
        assert whole(statement) == 100


@pytest.mark.parametrize(
    "nobody",
    [
        "",
        "unknown",
        "Unknown",
        "UNKNOWN",
        "nan",
        "None",
        "\u200b",
        " \u200d\xad",
        "un\u200bknown",
        "(null)",
        "\\N",
    ],
)
def test_words_for_nobody_are_no_payee(write_run, nobody):
    statement = payout(write_run({nobody: 1.0}), euros("1000.00"))
    assert (statement.lines[0].status, statement.total("paid")) == ("no payee", 0)


def test_what_has_no_answer_is_told_beside_the_money(write_run):
    run = write_run({"Ann": 1.0}, errors={"INVALID_ARGUMENT": 2, "INTERNAL": 1}, skipped={"a grid": 4})
    told = "Counted for nobody: 3 pictures without an answer and 4 files or members of the log that were skipped."
    assert told in " ".join(method(payout(run, euros("1000.00")), None))
    assert "Counted" not in " ".join(method(payout(write_run({"Ann": 1.0}), euros("1000.00")), None))


def test_a_name_longer_than_a_page_does_not_keep_others_from_their_statement(write_run):
    pytest.importorskip("reportlab")
    from attributary.receipts.payout_pdf import pdf_bytes

    statement = payout(write_run({"x" * 9_000: 1.0, "word " * 3_000: 1.0, "Ann": 1.0}), euros("1000.00"))
    assert pdf_bytes(statement, "title " * 900, []).startswith(b"%PDF-")


def test_names_that_may_be_an_excluded_creators_are_told(write_run):
    run = write_run({"Zo\u00eb": 1.0, "zoe": 2.0, "Bo": 1.0}, answered=10)
    told = CliRunner().invoke(
        cli, ["payout", str(run), "--pool", "100", "--currency", "EUR", "--exclude-creator", "Zo\u00eb"]
    )
    assert "note: zoe is not excluded, and may be the excluded Zo\u00eb" in told.output
    assert told.output.count("note: ") == 1


_THREADS = """
import os, sys
from pathlib import Path
from attributary.receipts import before, payout
from decimal import Decimal
said = [len(os.listdir("/proc/self/task"))]
terms = payout.Terms(Decimal("10.00"), "EUR")
before.Counted.read(payout.payout(Path(sys.argv[1]), terms).generations)
print(*said, len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads by /proc")
def test_no_thread_is_left_that_could_abort_the_end(write_run):
    run = write_run({"Ann": 3.0})
    said = subprocess.run([sys.executable, "-c", _THREADS, run], capture_output=True, text=True, check=True)
    first, last = said.stdout.split()
    assert first == last


@pytest.mark.parametrize("total", [float("nan"), float("inf"), -float("inf")])
def test_a_total_that_is_no_number_is_refused(write_run, total):
    run = write_run({"Ann": 3.0, "Bo": total})
    with pytest.raises(OutputError, match="share_in_distribution that is no number"):
        payout(run, euros("10.00"))
