"""JSON to dataclasses: every value is checked against its field, and a mismatch is named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


class MisfitError(ValueError):
    """JSON that does not fit; the message begins with the path of the value."""


def parse(kind: type[T], raw: object, where: str = "") -> T:
    """Build the dataclass `kind` from parsed JSON. Raises MisfitError for what is missing, unknown or of another type.

    Fields hold texts, numbers, flags, dataclasses, mappings, and tuples of numbers or of tuples of numbers.
    """
    if not isinstance(raw, dict):
        raise MisfitError(f"{where.rstrip('.') or 'the top level'} must be an object")
    entries = {entry.name: entry for entry in fields(cast(Any, kind))}
    if unknown := sorted(set(raw) - entries.keys()):
        raise MisfitError(f"{where}{unknown[0]} is not a known entry")
    for name, entry in entries.items():
        if name not in raw and entry.default is MISSING and entry.default_factory is MISSING:
            raise MisfitError(f"{where}{name} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}{name}") for name, value in raw.items()})


def _value(hint: Any, raw: object, where: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hasattr(hint, "__dataclass_fields__"):
        return parse(hint, raw, where + ".")
    if origin is tuple:
        return _rows([raw], where)[0] if inner[0] is float else _rows(raw, where)
    if origin in (dict, Mapping):
        if not isinstance(raw, dict):
            raise MisfitError(f"{where} must be an object")
        if inner[1] is str and not all(isinstance(part, str) for part in raw.values()):
            raise MisfitError(f"{where} must map names to strings")
        return dict(raw)
    if hint is bool and isinstance(raw, bool):
        return raw
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if not isinstance(raw, hint) or isinstance(raw, bool):
        raise MisfitError(f"{where} must be {hint.__name__}, got {type(raw).__name__}")
    return raw


def _rows(raw: object, where: str) -> tuple[tuple[float, ...], ...]:
    numbers = isinstance(raw, list) and all(
        isinstance(row, list)
        and all(isinstance(one, int | float) and not isinstance(one, bool) for one in row)
        for row in raw
    )
    if not numbers:
        raise MisfitError(f"{where} must be a list of rows of numbers")
    return tuple(tuple(float(one) for one in row) for row in cast(list[list[float]], raw))
