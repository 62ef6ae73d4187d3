"""From a command's arguments to a finished audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attributary.bundle.files import sha256
from attributary_train.audit import run
from attributary_train.audit.asking import Auditor, AuditSettings
from attributary_train.audit.drift import recorded_agreement, summary
from attributary_train.audit.log import read_log
from attributary_train.errors import AuditError, TeacherError
from attributary_train.evaluation.opening import Subject
from attributary_train.evaluation.strict_json import strict_json
from attributary_train.evaluation.tables import report
from attributary_train.files import write_text
from attributary_train.teacher.abu import Abu
from attributary_train.teacher.base import Attributor
from attributary_train.teacher.ekfac import load_factors
from attributary_train.teacher.labels import BASELINE, FACTORS, LabelSettings, read_facts
from attributary_train.teacher.registry import Context, create

METHOD = "abu+"


@dataclass(frozen=True)
class Audited:
    """Where everything lies, which queries are audited, and how the teacher is set where no labels say it."""

    bundle: Path
    subject: Path
    corpus: Path
    cache: Path
    log: Path
    limit: int | None = None
    ids: tuple[str, ...] = ()
    labels: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def run_audit(
    audited: Audited, settings: AuditSettings, folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Audit, or go on with an audit, in `folder`; returns the report that `summary.json` holds.

    Raises `AuditError`, `TeacherError`, `SubjectError`, `BundleError` for inputs that do not belong together.
    """
    queries = read_log(audited.log, audited.limit, audited.ids, settings.seed)
    subject = Subject.open(audited.subject, audited.corpus, audited.cache)
    teacher, about = _teacher(audited, subject)
    auditor = Auditor(audited.bundle, subject, teacher, settings)
    manifest = auditor.engine.bundle.manifest
    config = {
        "bundle": manifest.bundle_id,
        "revision": auditor.engine.snapshot.revision,
        "weights": subject.model.weights,
        "log": sha256(audited.log),
        "limit": audited.limit,
        "ids": list(audited.ids),
        "settings": asdict(settings),
        "teacher": about,
    }
    run.begin(folder, config)
    if len(run.done(folder)) < len(queries):
        # Opening costs nothing so far; the baseline is a pass over the whole training set.
        _fit(teacher, subject, audited, folder)
    rows = run.work(folder, queries, auditor.ask, say)
    content = report("audit", config, summary(rows, recorded_agreement(manifest.notes)), [])
    write_text(folder / run.SUMMARY, strict_json(content) + "\n", AuditError)
    return content


def _teacher(audited: Audited, subject: Subject) -> tuple[Attributor, dict[str, Any]]:
    if audited.labels is None:
        chosen = {"gradient_draws": 256, **audited.settings}
        made = create(METHOD, Context(audited.subject, subject.corpus, audited.cache), chosen)
        assert isinstance(made, Abu)
        return made, {"method": METHOD, "settings": asdict(made.settings)}
    facts = read_facts(audited.labels)
    if facts["weights"] != subject.model.weights:
        raise TeacherError(
            str(audited.labels),
            f"labels of model {facts['weights'][:12]}, not of {subject.model.weights[:12]}",
        )
    settings = LabelSettings.from_json(facts["settings"]).teacher
    path = audited.labels / FACTORS
    factors = load_factors(path, subject.model) if path.exists() else None
    scratch = audited.cache / "factors"
    return Abu(settings, scratch=scratch, factors=factors), {"method": METHOD, "settings": asdict(settings)}


def _fit(teacher: Attributor, subject: Subject, audited: Audited, folder: Path) -> None:
    assert isinstance(teacher, Abu)
    kept = None if audited.labels is None else audited.labels / BASELINE
    if kept is None or not kept.exists():
        kept = folder / BASELINE
    teacher.fit(subject.data, subject.model, baseline=kept)
