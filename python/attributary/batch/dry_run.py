"""What a run would read, without an engine: files, rows, prompts by source, what is skipped and why."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

from attributary.attribution.types import Query
from attributary.plain import counted

from .plan import Plan
from .scoring import prepare_rows

_SHOWN = 3


def dry_run(plan: Plan) -> dict[str, Any]:
    """Read a planned log to its end, pictures too, decode none of them, and return the findings, JSON-ready."""
    prompts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    for shard in plan.shards:
        with closing(plan.reader(shard.file)) as reader:
            for batch in plan.batches(reader, shard):
                prepared = prepare_rows(batch, plan.settings, lambda data, prompt: Query(prompt=prompt))
                for place, (row, prompt) in enumerate(zip(batch.rows, prepared.prompts, strict=True)):
                    problem = prepared.problems[place]
                    prompts.update([prompt.source] if prompt.source else ())
                    errors.update([f"{problem.field}: {problem.message}"[:120]] if problem else ())
                    if len(shown) < _SHOWN:
                        shown.append(
                            {
                                "generation_id": row.generation_id,
                                "model_id": row.model_id,
                                "image": row.uri or counted(len(row.image or b""), "byte"),
                                "prompt": prompt.text,
                                "prompt_source": prompt.source,
                                "problem": f"{problem.field}: {problem.message}" if problem else None,
                            }
                        )
    return {
        "files": [
            {"name": entry.file.name, "kind": entry.file.kind, "rows": entry.rows, "bytes": entry.bytes}
            for entry in plan.files
        ],
        "rows": plan.rows,
        "columns": {field.name: str(field.type) for field in plan.passed},
        "prompts": {"rows": prompts.total(), "by_source": dict(sorted(prompts.items()))},
        "error_rows": dict(errors.most_common(20)),
        "skipped": dict(sorted(plan.fates.skipped.items())),
        "ignored": dict(sorted(plan.fates.ignored.items())),
        "examples": plan.fates.examples,
        "first_rows": shown,
    }


def preview_lines(found: dict[str, Any]) -> list[str]:
    """The findings as lines for people."""
    files = found["files"]
    lines = [f"{counted(len(files), 'input')}, {counted(found['rows'], 'row')}"]
    lines += [
        f"  {file['name']}  {file['kind']}  {counted(file['rows'], 'row')}  {counted(file['bytes'], 'byte')}"
        for file in files[:20]
    ]
    lines += [f"  and {len(files) - 20} more"] if len(files) > 20 else []
    lines.append("columns that pass through: " + (", ".join(found["columns"]) or "none"))
    lines.append(prompts_line(found["prompts"], found["rows"]))
    lines += [f"{counted(count, 'error row')}: {message}" for message, count in found["error_rows"].items()]
    for word in ("skipped", "ignored"):
        for reason, count in found[word].items():
            lines.append(f"{word} {count:,}: {reason} (such as {found['examples'].get(reason, '?')})")
    for row in found["first_rows"]:
        prompt = f"{row['prompt']!r} ({row['prompt_source']})" if row["prompt"] else "no prompt"
        lines.append(f"row {row['generation_id']}: {row['image']}, {row['problem'] or prompt}")
    lines.append(skipped_line(found["skipped"]) or "nothing is skipped")
    return lines


def prompts_line(prompts: dict[str, Any], rows: int) -> str:
    """How many rows have a prompt, and from where."""
    sources = ", ".join(f"{source} {count:,}" for source, count in prompts["by_source"].items())
    return f"{prompts['rows']:,} of {counted(rows, 'row')} with a prompt{f' ({sources})' if sources else ''}"


def skipped_line(skipped: dict[str, int]) -> str:
    """How many members of the inputs are no rows, and why; empty for none."""
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in skipped.items())
    return f"skipped {sum(skipped.values()):,}: {reasons}" if skipped else ""
