"""From labels to a student's folder: the head on the untuned towers, then the compact network distilled from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attributary_train.errors import StudentError
from attributary_train.subject.prompts import STYLES, prompt_for
from attributary_train.subject.queries import Queries
from attributary_train.towers.rows import unit_rows

from .big_model import BigStudent
from .compact import Compact, CompactShape, folded, table_rows
from .config import StudentConfig
from .distil import DistilSettings, Lessons, distil
from .export import Samples, export_encoder
from .fitting import Fitted, fit
from .folder import Handover, read_facts, read_head, require_same, write_folder
from .kernel_head import KernelHead
from .labelled import Labelled
from .more_pictures import recombined
from .studio import Studio, to_tensor
from .variants import export_variants

Say = Callable[[str], None]
_SAMPLES = 64


def train(studio: Studio, config: StudentConfig, labels: Labelled, out: Path, say: Say) -> Fitted:
    """Fit a head and write its folder, encoder included."""
    fitted = fit(config, studio.material(labels, config.items), say)
    model = BigStudent(
        config.name, fitted.query, fitted.items.shape[1], studio.size, studio.tokens, studio.words.tower()
    ).eval()
    out.mkdir(parents=True, exist_ok=True)
    samples = samples_of(studio, studio.queries.take(range(min(_SAMPLES, len(studio.queries)))))
    exported = export_encoder(out, model, studio.words.save_tokenizer(out), samples, int8=False)
    about = handover(studio, config.name, "towers", config.to_json(), labels)
    state = {f"query.{name}": value for name, value in fitted.query.state_dict().items()}
    state |= {"items": fitted.items, "from_head": fitted.from_head}
    write_folder(
        out, about, studio.subject.data.ids, fitted.items.numpy(), state,
        {"loss": fitted.loss, "scales": list(fitted.scales), "encoder": exported},
    )  # fmt: skip
    return fitted


def handover(studio: Studio, name: str, kind: str, config: dict[str, Any], labels: Labelled) -> Handover:
    """Names and hashes for student.json."""
    model = studio.subject.model
    subject = str(model.facts.get("recipe", {}).get("name", studio.folder.name))
    return Handover(name, kind, config, model.weights, subject, labels.digest, len(labels))


def reopen(studio: Studio, folder: Path) -> tuple[StudentConfig, KernelHead, Tensor]:
    """A fitted head from its folder: configuration, head and item vectors.

    Raises `StudentError` if it is of another generator, of other items, or of a kind that is not distilled.
    """
    facts = read_facts(folder)
    require_same(facts, studio.subject.model.weights, studio.subject.data.ids)
    if facts["kind"] != "towers":
        raise StudentError(str(folder), f"holds a {facts['kind']} student; one on the towers is distilled")
    config = StudentConfig.from_json(facts["config"])
    if config.head != "kernel" or config.members != 1:
        raise StudentError(str(folder), "only a single head that starts from the kernel is distilled")
    state = read_head(folder)
    head = KernelHead(config, studio.see_items(config.items))
    head.load_state_dict({key[6:]: value for key, value in state.items() if key.startswith("query.")})
    return config, head.eval(), state["items"]


def distil_compact(
    studio: Studio,
    teacher: Path,
    labels: Labelled,
    more: Sequence[Queries],
    out: Path,
    say: Say,
    *,
    shape: CompactShape | None = None,
    settings: DistilSettings | None = None,
    texts: int = 14000,
) -> Compact:
    """Distil a student on the towers into a compact one and write its folder; a killed run goes on.

    Pictures: the labelled training queries, the training items as the autoencoder draws them, and `more`. `texts`:
    prompts without pictures from the captions of the whole corpus, none of them a prompt of a held-out query.
    """
    config, head, items = reopen(studio, teacher)
    settings = settings or DistilSettings()
    out.mkdir(parents=True, exist_ok=True)
    pictures = [studio.labelled_queries(labels), *more]
    inputs = [read_facts(teacher)["files"], labels.digest, [queries.prompts for queries in pictures], texts]
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    kept = out / "training" / f"lessons-{digest[:12]}.pt"
    if kept.exists():
        lessons = Lessons(**torch.load(kept, weights_only=True))
    else:
        lessons = lessons_of(studio, head, items, pictures, texts, say)
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(vars(lessons), kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    known = lessons.prompt_ids[lessons.prompt_mask > 0].unique()  # type: ignore[no-untyped-call]
    shape = replace(
        shape or CompactShape(), dim=items.shape[1], image_size=studio.size, max_tokens=studio.tokens,
        known=len(known),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        student = Compact(shape, table_rows(studio.words.tokenizer().get_vocab_size(), known, shape.shared))
    distil(student, lessons, settings, out / "training", say, digest=digest)
    ready = folded(student)
    samples = samples_of(studio, studio.queries.take(range(min(4 * _SAMPLES, len(studio.queries)))))
    exported = export_encoder(out, ready, studio.words.save_tokenizer(out), samples, int8=False)
    variants = export_variants(out, samples)
    all_settings = {"shape": shape.to_json(), "distil": asdict(settings), "towers": config.to_json()}
    about = handover(studio, ready.name, "compact", all_settings, labels)
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in ready.state_dict().items()
    }
    write_folder(
        out, about, studio.subject.data.ids, unit_rows(items).numpy(), half,
        {"encoder": exported, "variants": variants, "distilled_from": read_facts(teacher)["name"]},
    )  # fmt: skip
    return ready


def lessons_of(
    studio: Studio,
    head: KernelHead,
    items: Tensor,
    pictures: Sequence[Queries],
    texts: int,
    say: Say,
) -> Lessons:
    """What the compact student learns from."""
    data = studio.subject.data
    seen, pixels, prompts = (
        [studio.see_items("decoded")],
        [studio.item_pictures("decoded")],
        list(data.prompts),
    )
    for queries in pictures:
        seen.append(studio.see(queries))
        pixels.append(studio.pictures(queries))
        prompts += queries.prompts
    reduced = [head.reduce_all(one) for one in seen]
    with torch.inference_mode():
        targets = torch.cat([head.embed(one) for one in reduced]).clone()
    say(f"{len(targets)} pictures seen")
    words = prompts_alone(studio, texts)
    parts = []
    with torch.inference_mode():
        for at in range(0, len(words), 32):
            some = words[at : at + 32]
            known = head.kernel(studio.states(some), studio.words.mask(some))
            parts.append(unit_rows(known @ head.lift))
    own = torch.cat([one.states[:, 0] for one in reduced])
    say(f"{len(words)} prompts read")
    ids, mask = studio.words.encode(prompts + words)
    return Lessons(
        to_tensor(np.concatenate(pixels)), ids[: len(prompts)].clone(), mask[: len(prompts)].clone(), targets,
        ids, mask, torch.cat([own, *parts]), items,
    )  # fmt: skip


def prompts_alone(studio: Studio, count: int) -> list[str]:
    """Prompts without pictures: recombinations of what the generator knows, then captions of the whole corpus in its
    styles, evenly over it; none of a held-out query."""
    held = [
        prompt
        for prompt, split in zip(studio.queries.prompts, studio.queries.splits, strict=True)
        if split != "train"
    ]
    mixed = recombined(studio.subject.data.prompts, held)[:count]
    captions = [*captions_in_styles(studio), *captions_in_styles(studio, 1)]
    left = min(count - len(mixed), len(captions))
    picked = {captions[at * len(captions) // left] for at in range(left)}
    return mixed + sorted(picked - set(held) - set(mixed))


def captions_in_styles(studio: Studio, first: int = 0) -> list[str]:
    """A prompt for each caption of the whole corpus, the generator's styles in turn from style `first`.

    An adopted generator knows captions as they are.
    """
    captions = sorted({item.caption for item in studio.subject.corpus if item.caption.strip()})
    if studio.subject.model.text is not None:
        return captions
    styles = sorted(STYLES.values())
    return [prompt_for(caption, styles[(first + at) % len(styles)]) for at, caption in enumerate(captions)]


def samples_of(studio: Studio, queries: Queries) -> Samples:
    """Pictures and prompts for parity checks and quantisation."""
    ids, mask = studio.words.encode(queries.prompts)
    return Samples(studio.pictures(queries), ids.numpy(), mask.numpy())
