"""Settings from the environment: one that nearly has a setting's name is refused, not passed over."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import click

from attributary.errors import InvalidArgumentError

_PREFIX = "ATTRIBUTARY_"
# Of other commands and of the kernels: near to a setting's name, and meant.
_OTHERS = frozenset({"ADMIN_TOKEN", "TOKEN", "ADDRESS", "KERNELS"})


def refuse_misspelt(command: click.Command, environment: Mapping[str, str]) -> None:
    """Raise InvalidArgumentError for a variable that is nearly one of a command's: a token file that is not read
    leaves a server open.

    Others are left alone: an environment serves several commands, and Kubernetes adds its own.
    """
    known = {name for parameter in command.params for name in _variables(command, parameter)}
    for variable in sorted(environment):
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in known or name in _OTHERS:
            continue
        if near := get_close_matches(name, sorted(known), 1, 0.85):
            raise InvalidArgumentError(variable, f"is no setting; there is {_PREFIX}{near[0]}")


def _variables(command: click.Command, parameter: click.Parameter) -> list[str]:
    given = parameter.envvar
    names = [given] if isinstance(given, str) else list(given or ())
    own = f"{command.name}_{parameter.name}".upper()
    return [*(name.removeprefix(_PREFIX) for name in names), own]
