"""A log grows and is scored again as a whole: no statement counts a generation that another one has counted."""

from decimal import Decimal

import pytest

from attributary.errors import InvalidArgumentError, OutputError
from attributary.receipts.before import read
from attributary.receipts.envelope import seal
from attributary.receipts.payout import Terms, payout
from attributary.receipts.statement import run_statement

OLD = [("g-0", "a"), ("g-1", "b")]
GROWN = {
    "ids of its own": ("parquet", [*OLD, ("g-2", "c")]),
    "places in a table, put in another order": ("parquet", [("log#0", "c"), ("log#1", "b")]),
    "a folder, now below another": ("folder", [("all/nov/1.png", "a"), ("all/dec/1.png", "c")]),
    "a tar, now in parts": ("webdataset", [("part-1/0", "b")]),
}


def euros(**more):
    return Terms(Decimal("100.00"), "EUR", **more)


@pytest.fixture
def november(write_run, lay_down, tmp_path):
    """Function: (input's kind, rows) -> the statement of a run, apart from others."""

    def lay(kind="parquet", rows=OLD):
        run = write_run({"Ann": 1.0}, answered=len(rows), name="nov/run", rows=rows, kind=kind)
        return lay_down(payout(run, euros()), tmp_path / "nov" / "statement")

    return lay


@pytest.mark.parametrize("kind", ["parquet", "folder"])
@pytest.mark.parametrize("grown", GROWN.values(), ids=GROWN)
def test_what_was_counted_is_not_counted_again(november, write_run, kind, grown):
    before = read(november(kind), "EUR")
    run = write_run(
        {"Ann": 1.0}, answered=len(grown[1]), rows=grown[1], kind=grown[0], run="ab", name="dec/run"
    )
    with pytest.raises(InvalidArgumentError, match=r"answered generations, the first .* would be paid twice"):
        payout(run, euros(before=before))


def test_a_month_between_forgets_nothing(november, write_run, lay_down, tmp_path):
    before = read(november(), "EUR")
    run = write_run({"Ann": 1.0}, answered=1, rows=[("g-2", "c")], run="ab", name="dec/run")
    before = read(lay_down(payout(run, euros(before=before)), tmp_path / "dec" / "statement"), "EUR")
    run = write_run(
        {"Ann": 1.0}, answered=4, rows=[("g-3", "d"), *OLD, ("g-2", "c")], run="ac", name="jan/run"
    )
    with pytest.raises(InvalidArgumentError, match=r"3 of its 4 answered generations, the first 'g-0'"):
        payout(run, euros(before=before))


def test_new_generations_are_paid(november, write_run):
    """The same picture under another id of the log's own is another generation, as is another one in the same place."""
    before = read(november(), "EUR")
    rows = [("g-7", "a"), ("g-0", "d"), ("log#0", "e")]
    run = write_run({"Ann": 3.0}, answered=3, rows=rows, run="ab", name="dec/run")
    assert payout(run, euros(before=before)).total("paid") == 100


def test_a_statement_beside_the_run_is_seen_without_being_named(write_run, lay_down):
    november = write_run({"Ann": 2.0}, answered=2, rows=OLD, name="nov")
    path = lay_down(payout(november, euros()), november / "payout")
    run = write_run({"Ann": 2.0}, answered=3, rows=[*OLD, ("g-2", "c")], run="ab", name="dec")
    with pytest.raises(InvalidArgumentError, match="or remove that statement if it was never paid"):
        payout(run, euros())
    payout(november, euros())
    payout(run, Terms(Decimal(100), "JPY"))
    path.unlink()
    payout(run, euros())


def test_a_statement_without_its_generations_is_refused(november):
    path = november()
    path.with_name("generations.parquet").write_bytes(b"")
    with pytest.raises(InvalidArgumentError, match=r"not that of payout\.json"):
        read(path, "EUR")
    path.with_name("generations.parquet").unlink()
    with pytest.raises(InvalidArgumentError, match="copy it too"):
        read(path, "EUR")


@pytest.mark.parametrize("name", ["run.json", "shards/shard-000000.parquet", "creators.parquet"])
def test_a_run_that_somebody_edited_is_refused(write_run, name):
    run = write_run({"Ann": 1.0})
    with (run / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(OutputError, match=f"{name} *: is not the file that summary.json names"):
        payout(run, euros())


def test_answers_that_a_summary_makes_fewer_or_more_are_refused(write_run):
    """Half as many answers paid every creator twice."""
    rows = [(f"g-{number}", str(number)) for number in range(10)]
    for told in (5, 20):
        with pytest.raises(OutputError, match=f"says {told} answered, the run's rows are 10"):
            payout(write_run({"Ann": 1.0}, answered=told, rows=rows), euros())


def test_pictures_that_are_there_twice_are_told(write_run):
    statement = payout(write_run({"Ann": 1.0}, answered=3, rows=[*OLD, ("log#2", "a")]), euros())
    assert statement.repeated == 1


def test_a_summary_other_than_the_signed_one_is_refused(write_run, key):
    run = write_run({"Ann": 1.0})
    facts = {"bundle": {"id": "bb"}, "rows": 10, "merkle_root": "0" * 64}
    (run / "receipt.json").write_bytes(seal(run_statement((run / "summary.json").read_bytes(), facts), key))
    payout(run, euros())
    summary = (run / "summary.json").read_text()
    (run / "summary.json").write_text(summary.replace('"withheld_share": 0.0', '"withheld_share": 9.0'))
    with pytest.raises(OutputError, match=r"another one than was signed \(receipt\.json\)"):
        payout(run, euros())
