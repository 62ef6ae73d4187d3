"""What share can be bought: each attack's gain before the rules of entry and after, beside an honest item's.

    python benchmarks/gaming.py --calibration models/student/calibration.json --save
    python benchmarks/gaming.py --bundle out/bundle --save

The first bundle is of the committed student's encoder (`make out/gaming/manifest.json`); of a bundle whose vectors were
trained, which takes no additions, the second form prices them without the rules. Queries are cropped and recoloured
items with their captions, and the demo's generated pictures with their prompts. A share is the mean over all queries of
what the attacker gets, who did nothing but add. Columns: `before`, without the rules; `after`, by a contributor who has
had an item released; `new`, by one who has not; `released`, where the operator lets in whatever waits; `honest`, what
the same pictures earn with words of their own, under the rules; `gain`, after less honest. Quotas are off: every attack
may bring as much as it likes.
"""  # fmt: skip

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import ROOT, aim, arguments, emit
from numpy.typing import NDArray
from PIL import Image

from attributary.attribution.engine import Engine
from attributary.attribution.open import open_engine
from attributary.attribution.types import Limits, Options, Query
from attributary.building.calibration_file import CalibrationFile
from attributary.building.embed import _perturb, read_picture
from attributary.building.source import read_source
from attributary.bundle.bundle import Bundle
from attributary.delta.entry import CONTRIBUTOR, OPERATOR, Entrance, Terms, Verdict
from attributary.delta.items import Embedder, NewItem, check_space
from attributary.delta.store import Store
from attributary.errors import PreconditionError
from attributary.pictures import ReadPicture

MOST = 0.05
ME = "Mallory"
FIRST_ID = 7_000_000
MANY = 200
# Creators who are named in prompts: those with the most items, and some of the others.
LARGEST, OTHERS = 5, 10
GRID = 8
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class World:
    """What an attacker knows: the bundle, its pictures, and the queries that will be asked."""

    bundle: Path
    calibration: CalibrationFile | None
    pictures: dict[int, Path]
    captions: dict[int, str]
    queries: list[tuple[Pixels, str]]
    firsts: list[int]  # the first item of each query
    embeddings: NDArray[np.float32]  # of the queries, [Q, D]


def png(pixels: Pixels) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


def noised(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return (pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)


def mirrored_crop(pixels: Pixels, _: np.random.Generator) -> Pixels:
    side = pixels.shape[0]
    cut = side // 30
    return np.ascontiguousarray(pixels[cut : side - cut, cut : side - cut][:, ::-1])


def bent(pixels: Pixels, _: np.random.Generator) -> Pixels:
    """What the rule does not recognise: turned by 15 degrees, cut off-centre, hues exchanged."""
    side = pixels.shape[0]
    turned = Image.fromarray(pixels).rotate(15, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    return np.ascontiguousarray(np.asarray(turned)[side // 12 :, : -side // 12][..., [1, 2, 0]])


def items(pictures: Sequence[bytes], captions: Sequence[str], **fields: Any) -> list[NewItem]:
    return [
        NewItem(FIRST_ID + number, picture, caption, ME, **fields)
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True))
    ]


def worded(pictures: Sequence[bytes], caption: str) -> list[NewItem]:
    return items(pictures, [caption] * len(pictures))


def attacks(world: World) -> dict[str, tuple[list[NewItem], list[NewItem]]]:
    """Each attack, and the same pictures in honest words; none where no honest item looks like that."""
    rng = np.random.default_rng(3)
    prompts = [prompt for _, prompt in world.queries]
    firsts = list(dict.fromkeys(world.firsts))
    whole = [read_picture(world.pictures[number], None) for number in firsts]
    captions = [world.captions[number] for number in firsts]
    many = [prompts[number % len(prompts)] for number in range(MANY)]
    white = [png(np.full((64, 64, 3), 255, np.uint8))] * MANY
    noise = [png(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in many]
    stripes = []
    for _ in prompts:
        levels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        stripes.append(png(np.kron(levels, np.ones((16, 16, 1), np.uint8))))

    def copies(change: Callable[[Pixels, np.random.Generator], Pixels]) -> list[NewItem]:
        return items([png(change(one, rng)) for one in whole], captions)

    exact = copies(lambda one, _: one)
    declared = [replace(item, near_dup_of=number) for item, number in zip(exact, firsts, strict=True)]
    tuned, untuned = searched(world, rng)
    honest = [png(bent(one, rng)) for one in whole]
    return {
        "white pictures captioned with the prompts": (items(white, many), worded(white, "a white square")),
        "noise captioned with the prompts": (items(noise, many), worded(noise, "noise")),
        "squares captioned with the prompts": (items(stripes, prompts), worded(stripes, "coloured squares")),
        "a noised copy of each first item": (copies(noised), []),
        "a mirrored, cropped copy of each first item": (copies(mirrored_crop), []),
        "an exact copy of each first item": (exact, []),
        "an exact copy, declared a near duplicate": (declared, []),
        "a copy bent past recognition, its caption": (copies(bent), worded(honest, "a picture")),
        "pixels searched for each query's embedding": (
            items(tuned, prompts),
            worded(untuned, "coloured squares"),
        ),
    }


def searched(
    world: World, rng: np.random.Generator, steps: int = 40, tries: int = 12
) -> tuple[list[bytes], ...]:
    """Pictures of no sense whose embedding is near a query's, and what they were made of: the encoder is public.

    Evolution with a mean of normalised gains over random changes, per query, in squares of three colours, GRID a side.
    """
    bundle = Bundle.open(world.bundle)
    embedder = Embedder(bundle, Limits())
    side = bundle.manifest.encoder.image_size
    no_words = np.zeros(0, np.int64)

    def shown(levels: NDArray[np.float64]) -> Pixels:
        pixels = levels.clip(0, 255).astype(np.uint8)
        return np.kron(pixels, np.ones((side // GRID, side // GRID, 1), np.uint8))

    tuned, untuned = [], []
    for wanted in world.embeddings:
        levels = start = rng.uniform(0, 255, (GRID, GRID, 3))
        for _ in range(steps):
            changes = rng.normal(0, 30, (tries, GRID, GRID, 3))
            both = np.concatenate([levels + changes, levels - changes])
            found = (
                embedder.embed([(ReadPicture(shown(one), 0, 0), no_words) for one in both]).astype(np.float32)
                @ wanted
            )
            slope = found[:tries] - found[tries:]
            levels = (
                levels + 60 * np.einsum("t,thwc->hwc", slope, changes) / (np.abs(slope).sum() + 1e-9)
            ).clip(0, 255)
        tuned.append(png(shown(levels)))
        untuned.append(png(shown(start)))
    return tuned, untuned


@contextmanager
def opened(world: World) -> Any:
    """A store on a copy of the bundle, with the calibration that was asked for."""
    home = Path(tempfile.mkdtemp(prefix="gaming-"))
    try:
        with Store(
            shutil.copytree(world.bundle, home / "bundle"), lambda place: calibrated(place, world)
        ) as store:
            yield store
    finally:
        shutil.rmtree(home)


def calibrated(place: Path, world: World) -> Engine:
    engine = open_engine(place)
    if world.calibration is not None:
        manifest = replace(engine.bundle.manifest, calibration=world.calibration.calibration)
        # The id of a bundle is that of its manifest; the journal goes on under the one that it has.
        bundle_id = engine.bundle.manifest.bundle_id
        kind = type("Calibrated", (type(manifest),), {"bundle_id": property(lambda _: bundle_id)})
        fields = {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
        bundle = replace(engine.bundle, manifest=kind(**fields))
        engine.snapshot = replace(engine.snapshot, bundle=bundle)
    return engine


def gain(store: Store, world: World, name: str = ME) -> float:
    """The mean share of somebody over the queries."""
    total = 0.0
    assert store.engine is not None
    for pixels, prompt in world.queries:
        answer = store.engine.attribute(
            Query(pixels=pixels, prompt=prompt), Options(top_k=1, top_creators=1_000)
        )
        total += sum(one.share for one in answer.creators if one.creator == name)
    return total / len(world.queries)


def price(
    world: World, added: list[NewItem], terms: Terms, known: bool, release: bool = False
) -> tuple[float, int]:
    """What a delivery earns, and how many of its items were held."""
    if not added:
        return 0.0, 0
    words = {"who": ME, "why": "an attack"}
    with opened(world) as store:
        try:
            check_space(store.snapshot.bundle.manifest)
        except PreconditionError:
            return 0.0, len(added)
        if known:
            # Somebody who has been let in: one small item of their own that resembles nothing asked for.
            rng = np.random.default_rng(9)
            own = NewItem(FIRST_ID - 1, png(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "zzz", ME)
            store.add([own], **words, terms=OPERATOR)
        held = store.add(added, **words, terms=replace(terms, items_a_day=0)).held
        waiting = [record.items[0].id for record in store.held]
        if release and waiting:
            store.release(waiting, who="operator", why="let in")
        return gain(store, world), sum(map(bool, held))


def row(world: World, name: str, attack: list[NewItem], honest: list[NewItem]) -> dict[str, Any]:
    print(name, file=sys.stderr, flush=True)
    judge = mock.patch.object(Entrance, "judge", lambda *_: Verdict())
    with judge, mock.patch("attributary.delta.store.check_space", lambda _: None):
        before, _ = price(world, attack, OPERATOR, known=False)
    after, held = price(world, attack, CONTRIBUTOR, known=True)
    new, _ = price(world, attack, CONTRIBUTOR, known=False)
    released, _ = price(world, attack, CONTRIBUTOR, known=True, release=True)
    fair, _ = price(world, honest, CONTRIBUTOR, known=True, release=True)
    return {
        "attack": name, "items": len(attack), "held": held, "before": round(before, 4), "after": round(after, 4),
        "new": round(new, 4), "released": round(released, 4), "honest": round(fair, 4) if honest else None,
        "gain": round(after - fair, 4),
    }  # fmt: skip


def forms(name: str, item: int) -> dict[str, Callable[[str], str]]:
    """What a prompt may be turned to, to name a creator who has an item."""
    return {
        "'... by NAME'": lambda prompt: f"{prompt} by {name}",
        "'..., in the style of NAME'": lambda prompt: f"{prompt}, in the style of {name}",
        "'NAME' alone": lambda _: name,
        "the first word of the name, before the prompt": lambda prompt: f"{name.split()[0]} {prompt}",
        "the first word of the name alone": lambda _: name.split()[0],
        "the name spelled, 'N A M E', alone": lambda _: " ".join(name),
        "'... ' and the id of an item": lambda prompt: f"{prompt} {item}",
    }


def asking(world: World) -> list[dict[str, Any]]:
    """What a prompt or an embedding moves: rules of entry have no hold on these, roles and the rule of names do."""
    with opened(world) as store:
        engine = store.engine
        masked = engine.snapshot
        table, counts = engine.bundle.items, engine.filters.creators
        names = sorted(table.creator_names, key=lambda one: -counts[table.creator_codes[one]])
        names = names[:LARGEST] + np.random.default_rng(1).permutation(names[LARGEST:])[:OTHERS].tolist()
        moved: dict[str, dict[str, list[float]]] = {}
        for name in names:
            print(name, file=sys.stderr, flush=True)
            usual = gain(store, world, name)
            row = int(np.flatnonzero(table.creator_of_row == table.creator_codes[name])[0])
            for form, make in forms(name, table.id_of(row)).items():
                turned = replace(world, queries=[(pixels, make(prompt)) for pixels, prompt in world.queries])
                for when, snapshot in (("before", replace(masked, names=None)), ("after", masked)):
                    engine.snapshot = snapshot
                    found = moved.setdefault(form, {}).setdefault(when, [])
                    found.append(gain(store, turned, name) - usual)
            engine.snapshot = masked
        rows = [
            {
                "attack": form, "before": mean(found["before"][:LARGEST]), "after": mean(found["after"][:LARGEST]),
                "most before": round(max(found["before"]), 4), "most after": round(max(found["after"]), 4),
            }
            for form, found in moved.items()
        ]  # fmt: skip
    return [*rows, *chosen(world)]


def chosen(world: World) -> list[dict[str, Any]]:
    """What an embedding gives the item that it was chosen for: without the limit on embeddings, and with it."""
    with opened(world) as store:
        engine = store.engine
        limited = engine.snapshot
        entry = limited.bundle.manifest.encoder
        free_manifest = replace(limited.bundle.manifest, encoder=replace(entry, own_cosine=0.0))
        free = replace(limited, bundle=replace(limited.bundle, manifest=free_manifest))
        vectors = limited.bundle.vectors
        shares: dict[str, list[float]] = {"before": [], "after": []}
        for place in range(0, len(vectors), max(1, len(vectors) // 50)):
            vector = vectors[place].astype(np.float32)
            if entry.lengths:
                vector[-1] = 0  # All that a query may have of it.
            query = Query(embedding=vector / np.linalg.norm(vector), has_prompt=True)
            for when, snapshot in (("before", free), ("after", limited)):
                engine.snapshot = snapshot
                shares[when].append(engine.attribute(query, Options(top_k=1)).items[0].share)
        engine.snapshot = limited
    before, after = shares["before"], shares["after"]
    row = {
        "attack": "an embedding chosen for one item, with the role", "before": mean(before), "after": mean(after),
        "most before": round(max(before), 4), "most after": round(max(after), 4),
    }  # fmt: skip
    # Without the role an embedding is refused: tests/unit/gateway/test_access.py.
    refused = row | {"attack": "the same, without the role", "after": 0.0, "most after": 0.0}
    return [row, refused]


def mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def read_world(args: Any) -> World:
    source = read_source(args.pictures)
    ids: list[int] = source.table["id"].to_numpy().tolist()
    pictures = dict(zip(ids, source.pictures, strict=True))
    captions = dict(zip(ids, map(str, source.table["caption"].to_pylist()), strict=True))
    queries: list[tuple[Pixels, str]] = []
    folder = ROOT / "models" / "demo-queries"
    for one in json.loads((folder / "queries.json").read_text())["queries"]:
        if one.get("generated") and one.get("prompt"):
            queries.append((np.asarray(Image.open(folder / one["file"]).convert("RGB")), one["prompt"]))
    rng = np.random.default_rng(5)
    for number in rng.choice(ids, args.queries - len(queries), replace=False).tolist():
        queries.append((_perturb(read_picture(pictures[number], None), rng), captions[number]))
    calibration = CalibrationFile.read(args.calibration) if args.calibration else None
    world = World(args.bundle, calibration, pictures, captions, queries, [], np.zeros((0, 0), np.float32))
    with opened(world) as store:
        ask = store.engine.attribute
        answers = [ask(Query(pixels=pixels, prompt=prompt), Options(top_k=1)) for pixels, prompt in queries]
        prepared = [store.engine.prepare(Query(pixels=pixels, prompt=prompt)) for pixels, prompt in queries]
        embeddings = np.concatenate([store.engine.embed([one]) for one in prepared])
    return replace(world, firsts=[answer.items[0].id for answer in answers], embeddings=embeddings)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "out" / "gaming")
    parser.add_argument("--pictures", type=Path, default=ROOT / "out" / "pictures")
    parser.add_argument(
        "--calibration", type=Path, default=None, help="share parameters in place of the bundle's"
    )
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--embeddings-only", action="store_true", help="only what chosen embeddings give")
    args = parser.parse_args()
    world = read_world(args)
    if args.embeddings_only:
        rows = chosen(world)
        aims = [
            aim(f"{one['attack']}, at most", one["most after"], MOST, "share", one["most after"] <= MOST)
            for one in rows
        ]
        emit("gaming_embeddings", {"bundle": args.bundle.name}, {"asking": rows}, aims, args.json)
        return
    rows = [row(world, name, attack, honest) for name, (attack, honest) in attacks(world).items()]
    aims = [
        aim(f"gain over honest: {one['attack']}", one["gain"], MOST, "share", one["gain"] <= MOST)
        for one in rows
    ]  # fmt: skip
    asked = asking(world)
    aims += [
        aim(f"moved by asking: {one['attack']}", one["most after"], MOST, "share", one["most after"] <= MOST)
        for one in asked
    ]
    config = {
        "queries": args.queries,
        "bundle": args.bundle.name,
        "calibration": str(args.calibration or "the bundle's own"),
        "caption_weight": CONTRIBUTOR.caption_weight,
    }
    trained = Bundle.open(args.bundle).manifest.vectors_are_trained
    emit(
        "gaming_student" if trained else "gaming", config, {"adding": rows, "asking": asked}, aims, args.json
    )


if __name__ == "__main__":
    main()
