"""Statements that lie there already: what was carried forward is paid once, by the statement that comes next."""

import json
from dataclasses import replace
from decimal import Decimal
from shutil import copytree

import pytest
from click.testing import CliRunner

from attributary.cli.main import cli
from attributary.errors import InvalidArgumentError
from attributary.receipts.before import read
from attributary.receipts.payout import Terms, payout
from attributary.receipts.payout_words import page, totals


def euros(pool, **more):
    return Terms(Decimal(pool), "EUR", **more)


def pay(run, *words):
    """Run the verb; what it said, or what it refused."""
    words = ("payout", str(run), "--pool", "1000", "--currency", "EUR", "--minimum", "50", *map(str, words))
    result = CliRunner().invoke(cli, words)
    assert result.exception is None or isinstance(result.exception, InvalidArgumentError)
    return str(result.exception or result.output)


@pytest.fixture
def months(write_run):
    """Function: (names...) -> finished runs of those months, in folders apart, with statements of none."""

    def write(*names):
        return [
            write_run({"Bo": 0.04}, name=f"{name}/run", run=f"{number:016x}") for number, name in enumerate(names)
        ]  # fmt: skip

    return write


def test_who_is_due_less_than_the_minimum_is_paid_later(write_run, lay_down, tmp_path):
    run = write_run({"Ann": 5.0, "Bo": 0.04}, answered=10)
    first = payout(run, euros("1000.00", minimum=Decimal("5.00")))
    assert [(line.creator, line.due, line.paid) for line in first.lines] == [("Ann", 500, 500), ("Bo", 4, 0)]
    before = read(lay_down(first, tmp_path), "EUR")
    assert (before.owed, before.runs) == ({"Bo": Decimal("4.00")}, {"00000000000000aa"})
    with pytest.raises(InvalidArgumentError, match="would be paid twice"):
        payout(run, euros("1000.00", brought=before.owed, before=before))
    run = write_run({"Ann": 5.0, "Bo": 0.04}, answered=10, run="00000000000000ab")
    brought = {**before.owed, "Cy": Decimal("6.00")}
    second = payout(run, euros("1000.00", minimum=Decimal("5.00"), brought=brought, before=before))
    paid = {line.creator: (line.amount, line.paid) for line in second.lines}
    assert paid == {"Ann": (500, 500), "Bo": (4, 8), "Cy": (0, 6)}
    with pytest.raises(InvalidArgumentError, match="not in USD"):
        read(tmp_path / "payout.json", "USD")
    facts = json.loads((tmp_path / "payout.json").read_text())
    for line in facts["creators"]:
        line["creator"] = None
    (tmp_path / "payout.json").write_text(json.dumps(facts))
    with pytest.raises(InvalidArgumentError, match=r"is no payout\.json"):
        read(tmp_path / "payout.json", "EUR")
    for text in ("[]", "[" * 100_000):
        (tmp_path / "payout.json").write_text(text)
        with pytest.raises(InvalidArgumentError, match=r"is no payout\.json"):
            read(tmp_path / "payout.json", "EUR")


def test_a_run_whose_amounts_went_through_a_later_statement_is_paid_once(write_run, lay_down, tmp_path):
    path, terms = tmp_path / "payout.json", euros("1000.00", minimum=Decimal("50.00"))
    for number in ("aa", "ab", "ac"):
        run = write_run({"Bo": 0.04}, run=f"00000000000000{number}")
        before = read(lay_down(payout(run, terms), tmp_path), "EUR")
        terms = replace(terms, brought=before.owed, before=before)
    assert before.owed == {"Bo": Decimal("12.00")}
    assert len(before.counted) == 30
    for number in ("aa", "ab", "ac"):
        with pytest.raises(InvalidArgumentError, match="would be paid twice"):
            payout(write_run({"Bo": 0.04}, run=f"00000000000000{number}"), terms)
    old = json.loads(path.read_text())
    for name in ("brought_forward_of", "brought_forward_sha256", "generations_sha256"):
        del old[name]
    path.write_text(json.dumps(old))
    assert read(path, "EUR").runs == {"00000000000000ac"}, "a statement from before"


def test_what_was_owed_before_an_exclusion_stays_owed(write_run, lay_down, tmp_path):
    """It was in no later statement: the next one brought forward only what was below the minimum."""
    path, bo, cy = tmp_path / "payout.json", Decimal("4.00"), Decimal("3.00")
    first = euros(
        "1000.00", minimum=Decimal("5.00"), excluded=frozenset({"Bo", "Cy"}), brought={"Bo": bo, "Cy": cy}
    )

    def then(terms, number):
        statement = payout(write_run({"Ann": 5.0, "Bo": 0.5}, run=f"00000000000000{number}"), terms)
        told = dict(totals(statement))
        assert told.pop("pool") + told.pop("brought forward from the statement before") == sum(told.values())
        return statement, told, read(lay_down(statement, tmp_path), "EUR").owed

    statement, told, carried = then(first, "aa")
    assert {line.creator: (line.paid, line.carried) for line in statement.lines if line.creator != "Ann"} == {
        "Bo": (0, bo),
        "Cy": (0, cy),
    }
    assert carried == {"Bo": bo, "Cy": cy}
    assert told["carried forward: owed before, excluded now"] == bo + cy
    assert told["excluded creators, not paid"] == 50
    assert "excluded; 4.00 from before carried forward" in page(statement, "t", [])
    facts = json.loads(path.read_text())
    for line in facts["creators"]:
        del line["carried_forward"]
    path.write_text(json.dumps(facts))
    assert read(path, "EUR").owed == carried, "a statement from before"
    # Excluded again, then no more.
    assert then(replace(first, brought=carried), "ab")[2] == carried
    statement, _, carried = then(replace(first, brought=carried, excluded=frozenset()), "ac")
    assert {line.creator: line.paid for line in statement.lines} == {"Ann": 500, "Bo": 54, "Cy": 0}
    assert carried == {"Cy": cy}
    # The operator may say otherwise.
    statement, told, carried = then(replace(first, forfeited=frozenset({" Bo"})), "ad")
    assert carried == {"Cy": cy}
    assert told["forfeited: owed before to excluded creators"] == bo
    for name in ("Ann", "Zoe"):
        with pytest.raises(InvalidArgumentError, match=f"forfeit: '{name}' must be excluded"):
            then(replace(first, forfeited=frozenset({name})), "ae")


def test_what_was_carried_forward_is_brought_forward_once(months):
    november, december, january = months("nov", "dec", "jan")
    pay(november)
    last = november / "payout" / "payout.json"
    assert "8.00 EUR  carried forward" in pay(december, "--brought-forward", last)
    # December may be done again; nobody else has November's amounts, by whatever name it is given.
    link = january / "last.json"
    link.symlink_to(last)
    for path in (last, link):
        told = pay(january, "--brought-forward", path)
        assert "was brought forward by the statement of run 0000000000000001 already" in told
    assert "8.00 EUR  carried forward" in pay(december, "--brought-forward", last)
    assert not (january / "payout").exists()
    told = pay(january, "--brought-forward", december / "payout" / "payout.json")
    assert "12.00 EUR  carried forward" in told


def test_a_statement_names_the_one_before_by_its_digest(months):
    november, december = months("nov", "dec")
    pay(november)
    last = november / "payout" / "payout.json"
    pay(december, "--brought-forward", last)
    told = json.loads((december / "payout" / "payout.json").read_text())
    assert told["brought_forward_sha256"] == read(last, "EUR").sha256


def test_a_statement_that_was_brought_forward_stays_as_it_is(months):
    november, december = months("nov", "dec")
    pay(november)
    last = november / "payout" / "payout.json"
    pay(december, "--brought-forward", last)
    before = last.read_bytes()
    pay(november)
    assert "run 0000000000000001 has brought it forward as it is" in pay(november, "--minimum", "1")
    assert last.read_bytes() == before


def test_a_statement_is_not_written_over_another_runs(months, tmp_path):
    november, december = months("nov", "dec")
    pay(november, "--out", tmp_path / "out")
    before = (tmp_path / "out" / "payout.json").read_bytes()
    words = ("--out", tmp_path / "out", "--brought-forward", tmp_path / "out" / "payout.json")
    assert "is the statement of run 0000000000000000 in EUR: move it" in pay(december, *words)
    assert (tmp_path / "out" / "payout.json").read_bytes() == before
    assert "8.00 EUR" in pay(december, *words[2:]), "nothing was taken by what was refused"


def test_two_statements_before_are_refused(months):
    """All but the last were passed over, and what they had carried forward was lost."""
    november, december, january = months("nov", "dec", "jan")
    words = []
    for run in (november, december):
        pay(run)
        words += ["--brought-forward", run / "payout" / "payout.json"]
    assert "must be one statement, the last" in pay(january, *words)


def test_what_nobody_brought_forward_is_told(write_run):
    november, december = (
        write_run({"Bo": 0.04}, name=name, run=f"{number:016x}") for number, name in enumerate(("nov", "dec"))
    )
    assert "note:" not in pay(november)
    told = "nov/payout/payout.json carried 4.00 EUR forward, and no statement has brought it forward"
    assert told in pay(december)
    assert "note:" not in pay(december, "--brought-forward", november / "payout" / "payout.json")


def test_the_printed_amount_is_what_is_paid(months):
    november, december = months("nov", "dec")
    pay(november)
    told = pay(december, "--minimum", "8", "--brought-forward", november / "payout" / "payout.json")
    assert "8.00 EUR  paid" in told


def test_a_copy_of_a_statement_is_seen_beside_the_run_that_brought_it_forward(write_run, tmp_path):
    """The copy has no note beside it."""
    names = ("nov", "dec", "jan")
    november, december, january = (
        write_run({"Bo": 0.04}, name=name, run=f"{number:016x}") for number, name in enumerate(names)
    )
    pay(november)
    copytree(november / "payout", tmp_path / "mail" / "copy")
    pay(december, "--brought-forward", november / "payout" / "payout.json")
    told = pay(january, "--brought-forward", tmp_path / "mail" / "copy" / "payout.json")
    assert "dec/payout/payout.json has brought forward amounts of run 0000000000000000 already" in told
    pay(january, "--brought-forward", december / "payout" / "payout.json")
    for run, words in (
        (november, ()),
        (december, ("--brought-forward", november / "payout" / "payout.json")),
    ):
        assert "4.00 EUR" in pay(run, *words), "an earlier month's statement once more, unchanged"


def test_a_log_scored_again_elsewhere_is_seen(write_run):
    """Last month's log by mistake, in a directory of this month's name: the same run."""
    november, december = (write_run({"Bo": 0.04}, name=name) for name in ("nov", "dec"))
    pay(november)
    assert "10 of its 10 answered generations" in pay(december)
    (december.parent / "latest").symlink_to(november)
    assert "4.00 EUR" in pay(december.parent / "latest")


def test_a_statement_is_not_written_over_one_in_another_currency(months):
    (november,) = months("nov")
    pay(november)
    assert "in EUR: move it" in pay(november, "--currency", "USD")


def test_a_list_of_excluded_creators_may_be_kept(write_run, tmp_path):
    """A run that did not know one of them refused the list; without the name the month after paid them."""
    last, told = (), []
    for number, names in enumerate((("Ann", "Bo"), ("Ann",), ("Ann", "Bo"))):
        run = write_run(dict.fromkeys(names, 1.0), name=f"{number}/run", run=f"{number:016x}")
        told.append(pay(run, "--exclude-creator", " Bo", *last))
        last = ("--brought-forward", run / "payout" / "payout.json")
    assert ["Bo  " in month for month in told] == [True, False, True]
    assert "100.00 EUR  excluded" in told[2]
    run = write_run({"Bo": 1.0}, name="3/run", run=f"{3:016x}")
    assert "no creator 'Zoe'" in pay(run, "--exclude-creator", "Zoe", *last)
    assert "note: Bo was excluded by the statement before, and is not by this one" in pay(run, *last)


def test_a_statement_written_again_keeps_what_it_brought_forward(months):
    november, december = months("nov", "dec")
    pay(november)
    words = ("--brought-forward", november / "payout" / "payout.json")
    pay(december, *words)
    assert "which this one would lose: give it again" in pay(december)
    assert "8.00 EUR" in pay(december, *words, "--minimum", "9")
