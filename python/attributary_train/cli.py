"""`attributary-train`: one command group a part, imported only when it is called."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import click

from attributary_train.console import clear_errors

# Said once a class of diffusers that wants torchvision; nothing here uses one, in this process or in workers.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# Name of a group -> where its click command lives.
GROUPS = {
    "audit": "attributary_train.audit.commands:audit",
    "bench": "attributary_train.evaluation.bench_command:bench",
    "calibrate": "attributary_train.calibration.commands:calibrate",
    "abc": "attributary_train.customization.commands:abc",
    "corpus": "attributary_train.corpus.commands:corpus",
    "demo-queries": "attributary_train.calibration.demo_queries:demo_queries",
    "encoder": "attributary_train.student.commands:encoder",
    "export": "attributary_train.student.export_command:export",
    "label": "attributary_train.teacher.commands:label",
    "student": "attributary_train.student.student_commands:student",
    "own": "attributary_train.own.commands:own",
    "own-example": "attributary_train.own.commands:own_example",
    "pack-labels": "attributary_train.teacher.packing:pack",
    "subject": "attributary_train.subject.commands:subject",
    "evaluate": "attributary_train.evaluation.commands:evaluate",
}
# What a part above adds to a group.
ADDED = {
    "evaluate": (
        "attributary_train.student.evaluate_commands:student",
        "attributary_train.student.evaluate_commands:retrieval",
    ),
}


class _LazyGroup(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        with clear_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        command = _loaded(GROUPS[cmd_name])
        for place in ADDED.get(cmd_name, ()):
            assert isinstance(command, click.Group)
            command.add_command(_loaded(place))
        return command


def _loaded(place: str) -> click.Command:
    module, _, name = place.partition(":")
    command: click.Command = getattr(import_module(module), name)
    return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="attributary-train", message="%(version)s")
def main() -> None:
    """Corpora, teachers, students and their evaluation."""
