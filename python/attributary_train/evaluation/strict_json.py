"""JSON as its grammar has it: a number that is not finite is null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def strict_json(content: Mapping[str, Any]) -> str:
    """A report as JSON text. NaN and infinities, which JSON does not know and most readers refuse, become null."""
    return json.dumps(_known(content), indent=2, allow_nan=False)


def _known(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_known(each) for each in value]
    return value
