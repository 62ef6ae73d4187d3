"""`attributary-train evaluate ...`: does what was built find what it should?"""

from __future__ import annotations

import click

from .gates_command import gates
from .halves_command import halves
from .truth_commands import COMMANDS


@click.group("evaluate")
def evaluate() -> None:
    """Measure encoders, bundles and attribution methods."""


for _command in (*COMMANDS, halves, gates):
    evaluate.add_command(_command)
