"""Amounts of money, exactly: a pool is divided into its smallest units, and not one of them is lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Final

from attributary.errors import InvalidArgumentError

# Digits behind the point by ISO 4217 (2026-01). A code that is none ("YEN") has no digits to go by.
_NONE: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_TWO: Final = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY "
    "COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS "
    "INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR "
    "MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD "
    "SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
)
_THREE: Final = "BHD IQD JOD KWD LYD OMR TND"
_DIGITS: Final = {
    code: digits for digits, codes in ((0, _NONE), (2, _TWO), (3, _THREE)) for code in codes.split()
}
_MOST: Final = Decimal(10) ** 15


def digits_of(currency: str) -> int:
    """Return how many digits a currency has behind the point; raises InvalidArgumentError for what is no code."""
    if currency not in _DIGITS:
        raise InvalidArgumentError("currency", f"must be a code of ISO 4217 like EUR, got {currency[:80]!r}")
    return _DIGITS[currency]


def amount(text: str, digits: int, field: str, least: Decimal = Decimal(0)) -> Decimal:
    """Return an amount as it is written; raises InvalidArgumentError naming `field`.

    Digits and at most one point, with at most the currency's digits behind it: 1.000 euros are one for one reader and a
    thousand for another.
    """
    found = re.fullmatch(r"[0-9]{1,32}(?:\.([0-9]+))?", text)
    if found is None:
        raise InvalidArgumentError(
            field,
            f"must be an amount like {_like(digits)}, without separators of thousands, got {text[:80]!r}",
        )
    if len(found[1] or "") > digits:
        raise InvalidArgumentError(
            field,
            f"has more than {digits} digits behind the point: {text[:80]}; write an amount like {_like(digits)}, "
            "without separators of thousands",
        )
    value = Decimal(text)
    if not least <= value <= _MOST:
        raise InvalidArgumentError(field, f"must be from {least} to {_MOST:.0f}, got {text[:80]}")
    return round(value, digits)


def _like(digits: int) -> str:
    return f"1000 or {Decimal(1000):.{digits}f}" if digits else "1000"


def of_pool(pool: Decimal, part: Fraction, digits: int) -> Decimal:
    """Return a part of a pool, rounded to a unit."""
    return Decimal(round(Fraction(pool.scaleb(digits)) * part)).scaleb(-digits)


def divide(pool: Decimal, weights: Sequence[Fraction], digits: int) -> list[Decimal]:
    """Divide a pool by weights into amounts that add up to it exactly.

    Each is its exact part, rounded down to a unit; the units that are left go to the largest remainders, among equal
    ones to the first.
    """
    units = int(pool.scaleb(digits))
    whole = sum(weights, Fraction(0))
    exact = [weight * units / whole for weight in weights]
    parts = [int(part) for part in exact]
    order = sorted(range(len(exact)), key=lambda place: (parts[place] - exact[place], place))
    for place in order[: units - sum(parts)]:
        parts[place] += 1
    return [Decimal(part).scaleb(-digits) for part in parts]
