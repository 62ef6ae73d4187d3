"""Amounts of money as people write them, in the units of their currency."""

from decimal import Decimal

import pytest
from click.testing import CliRunner

from attributary.cli.main import cli
from attributary.errors import InvalidArgumentError
from attributary.receipts.payout import Terms, payout

NO_AMOUNTS = [
    ("eur", "1", "currency"),
    ("EURO", "1", "currency"),
    # The yen has no digits behind the point, and was given two.
    ("YEN", "1", "currency"),
    ("EUR", "1.005", "more than 2 digits"),
    ("JPY", "1.5", "more than 0 digits"),
    ("EUR", "many", "must be an amount"),
    *(("EUR", pool, "must be from") for pool in ("0", "9" * 30)),
    *(
        ("EUR", pool, "must be an amount")
        for pool in ("-1", "+1", "NaN", "1e3", "Infinity", "", "1_000", " 1", "1.")
    ),
    *(
        ("EUR", pool, "must be an amount")
        for pool in ("1,000", "1.000,00", "1'000", "1 000", "\u0661\u0662", "1,5")
    ),
    # A thousand to some, one to others.
    *(("EUR", pool, "more than 2 digits behind the point: 1.") for pool in ("1.000", "1.500")),
    ("JPY", "1.000", "without separators of thousands"),
]


@pytest.mark.parametrize(("currency", "pool", "said"), NO_AMOUNTS)
def test_amounts_that_are_none_are_named(currency, pool, said, write_run):
    run = write_run({"Ann": 1.0})
    result = CliRunner().invoke(cli, ["payout", str(run), "--pool", pool, "--currency", currency])
    assert isinstance(result.exception, InvalidArgumentError)
    assert said in str(result.exception)
    if "currency" not in said:
        words = ["payout", str(run), "--pool", "1", "--currency", currency, "--minimum", pool]
        least = CliRunner().invoke(cli, words).exception
        assert pool == "0" or (said in str(least) and str(least).startswith("minimum"))


def test_currencies_have_their_own_units(write_run):
    run = write_run({"Ann": 1.0, "Bo": 1.0}, answered=3)
    assert [line.amount for line in payout(run, Terms(Decimal(100), "JPY")).lines] == [34, 33]
    assert payout(run, Terms(Decimal("100.000"), "KWD")).lines[0].amount == Decimal("33.334")
