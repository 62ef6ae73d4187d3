"""What would somebody build instead? From a picture's bytes to a ranked list with captions and creators; one core.

    benchmarks/alternatives.py --bundle out/bundle --bundle out/demo/bundle [--json] [--save]

Four ways over the items of each bundle, in turns on the same bytes, each stage by the clock:

- *attributary*: the core in process, with shares, creators' totals, opt-outs and the flag.
- *the papers' way*: features of a ViT-B/16 (DINO's architecture) and of CLIP's text tower in torch, one MLP, the dot
  product with every item, a full sort.
- *clip-retrieval's stages*: Pillow, CLIP ViT-B/32 in torch, a FAISS HNSW, rows of an Arrow table. With a prompt the
  mean of both towers, since it asks with one or the other.
- *encoder and Milvus*: this bundle's encoder in ONNX Runtime behind Pillow, Milvus Lite in a process of its own.

Networks of others have random weights of the real architecture: time does not depend on them, and what they would
find is not measured here. Prompts go into their text towers as token ids at full length; tokenising is free for them.
Qdrant has no server in a package; its local mode is not made for measuring.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
from common import Aim, aim, arguments, emit  # noqa: E402
from decode import contents, encoded  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

# Beside this script lies triton.py, which torch would take for its own triton.
sys.path.remove(str(Path(__file__).resolve().parent))

from attributary.attribution.engine import Engine  # noqa: E402
from attributary.attribution.open import open_engine  # noqa: E402
from attributary.attribution.types import Options, Query  # noqa: E402

OURS, PAPERS, CLIP, MILVUS = "attributary", "the papers' way", "clip-retrieval's stages", "encoder and Milvus"
STAGES = ("picture", "encode", "search", "names")
FORMATS: dict[str, dict[str, Any]] = {"PNG": {"format": "PNG"}, "JPEG": {"format": "JPEG", "quality": 90}}
PROMPT = "hot air balloon"
TOP, TOKENS = 100, 77
Ask: TypeAlias = Callable[[bytes, str], dict[str, float]]
Row: TypeAlias = dict[str, Any]


def staged(*stages: Callable[[Any, str], Any]) -> Ask:
    """A way of the four stages: each is given what the one before has found, the first a picture's bytes."""

    def ask(data: bytes, prompt: str) -> dict[str, float]:
        found: Any = data
        took = {}
        for name, stage in zip(STAGES, stages, strict=True):
            begun = perf_counter()
            found = stage(found, prompt)
            took[name] = 1e3 * (perf_counter() - begun)
        return took

    return ask


def ours(engine: Engine) -> Ask:
    options = Options(top_k=min(TOP, engine.snapshot.candidate_count))

    def ask(data: bytes, prompt: str) -> dict[str, float]:
        begun = perf_counter()
        took = engine.attribute(Query(image=data, prompt=prompt), options).timings
        whole = 1e3 * (perf_counter() - begun)
        stages = {
            "picture": took.decode + took.preprocess,
            "encode": took.tokenize + took.encode,
            "search": took.search + took.rescore,
        }
        return stages | {"names": whole - sum(stages.values())}

    return ask


def shrunk(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode, shorter side to `size`, centre crop, as the towers' own preprocessing does."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in picture.size)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def as_tensor(pixels: NDArray[np.uint8]) -> Any:
    import torch

    return torch.from_numpy((pixels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1).copy())[None]


def units(count: int, dim: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(0).standard_normal((count, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def as_tower(data: bytes, _prompt: str) -> Any:
    return as_tensor(shrunk(data, 224))


def papers(engine: Engine, towers: dict[str, Any]) -> Ask:
    import torch

    items, table = torch.from_numpy(units(len(engine.bundle.items), 768)), engine.bundle.items
    mlp = torch.nn.Sequential(torch.nn.Linear(1280, 768), torch.nn.ReLU(), torch.nn.Linear(768, 768))
    ids = torch.randint(1, 40_000, (1, TOKENS))

    @torch.no_grad()
    def encode(pixels: Any, prompt: str) -> Any:
        seen = towers["vit"](pixel_values=pixels).last_hidden_state[:, 0]
        read = towers["text"](input_ids=ids).text_embeds if prompt else torch.zeros(1, 512)
        return torch.nn.functional.normalize(mlp(torch.cat([seen, read], 1)))[0]

    def search(query: Any, _prompt: str) -> Any:
        return torch.argsort(items @ query, descending=True)

    return staged(
        as_tower, encode, search, lambda order, _: [table.facts(row) for row in order[:TOP].tolist()]
    )


def clip_retrieval(engine: Engine, towers: dict[str, Any]) -> Ask:
    import faiss
    import pyarrow.parquet as pq
    import torch

    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(512, "HNSW32", faiss.METRIC_INNER_PRODUCT)
    index.add(units(len(engine.bundle.items), 512))
    table = pq.read_table(engine.bundle.directory / "items.parquet", columns=["caption", "creator", "uri"])
    ids = torch.randint(1, 40_000, (1, TOKENS))

    @torch.no_grad()
    def encode(pixels: Any, prompt: str) -> Any:
        query = torch.nn.functional.normalize(towers["clip"](pixel_values=pixels).image_embeds)
        if prompt:
            query += torch.nn.functional.normalize(towers["text"](input_ids=ids).text_embeds)
        return torch.nn.functional.normalize(query).numpy()

    def search(query: Any, _prompt: str) -> Any:
        return index.search(query, TOP)[1][0]

    return staged(as_tower, encode, search, lambda rows, _: table.take(rows[rows >= 0]).to_pylist())


@contextmanager
def milvus(engine: Engine) -> Iterator[Ask]:
    from pymilvus import MilvusClient

    spec, bundle, name = engine.encoder.spec, engine.bundle, "items"
    with tempfile.TemporaryDirectory() as scratch:
        client = MilvusClient(str(Path(scratch) / "lite.db"))
        client.create_collection(name, dimension=spec.dim, metric_type="IP")
        items, vectors = bundle.items, bundle.vectors.astype(np.float32)
        rows = [
            {"id": at, "vector": vector, "caption": items.caption(at), "creator": items.creator(at)}
            for at, vector in enumerate(vectors)
        ]
        for at in range(0, len(rows), 1_000):
            client.insert(name, rows[at : at + 1_000])
        client.load_collection(name)

        def encode(pixels: Any, prompt: str) -> Any:
            ids, mask = engine.tokenizer.pad([engine.tokenizer.encode(prompt)])
            return engine.encoder.encode(pixels[None], ids, mask)

        def search(query: Any, _prompt: str) -> Any:
            return client.search(name, query, limit=TOP, output_fields=["caption", "creator"])

        # Names come with what was found.
        yield staged(lambda data, _: shrunk(data, spec.image_size), encode, search, lambda found, _: found)
        client.close()


def networks() -> dict[str, Any]:
    import torch
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        ViTConfig,
        ViTModel,
    )

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return {
        "vit": ViTModel(ViTConfig(), add_pooling_layer=False).train(False),
        "clip": CLIPVisionModelWithProjection(CLIPVisionConfig()).train(False),
        "text": CLIPTextModelWithProjection(CLIPTextConfig()).train(False),
    }


def measure(ways: Mapping[str, Ask], size: int, rounds: int) -> Iterator[tuple[Row, Row]]:
    """Of each kind of query of one size: milliseconds by way, and by way and stage; medians of what was timed."""
    pictures = list(contents(size).values())
    for form, encoding in FORMATS.items():
        data = [encoded(picture, encoding) for picture in pictures]
        for prompt in (PROMPT, ""):
            found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
            for turn in range(rounds + 1):
                for picture in data:
                    for way, ask in ways.items():
                        took = ask(picture, prompt)
                        if turn:  # the first warms up
                            found[way].append(took)
            kind = {"format": form, "size": size, "prompt": "with" if prompt else "without"}
            whole = {way: statistics.median(sum(one.values()) for one in each) for way, each in found.items()}
            stages = {
                f"{way}: {stage}": statistics.median(one[stage] for one in each)
                for way, each in found.items()
                for stage in STAGES
            }
            yield kind | whole, kind | stages


def judge(rows: Sequence[Row]) -> list[Aim]:
    """How much longer each other way takes, in the cell where it does best."""
    found = []
    for items in dict.fromkeys(row["items"] for row in rows):
        mine = [row for row in rows if row["items"] == items]
        for other in (PAPERS, CLIP, MILVUS):
            times = [row[other] / row[OURS] for row in mine]
            least = mine[int(np.argmin(times))]
            note = "{format} of {size} px, {prompt} a prompt".format_map(least)
            note += f"; the median cell {statistics.median(times):.3g}"
            title = f"{other} of {items:,} items over attributary"
            found.append(aim(title, min(times), 1.0, "times", min(times) >= 1, note))
    return found


def main() -> None:
    """Measure and tell."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", action="append", type=Path, default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    options = parser.parse_args()
    towers, rows, stages = networks(), [], []
    for place in options.bundle or [Path("out/bundle"), Path("out/demo/bundle")]:
        engine = open_engine(place, encoder_threads=1)
        bundle = {"encoder": engine.encoder.spec.name, "items": len(engine.bundle.items)}
        with milvus(engine) as in_milvus:
            ways = {
                OURS: ours(engine),
                PAPERS: papers(engine, towers),
                CLIP: clip_retrieval(engine, towers),
                MILVUS: in_milvus,
            }
            for size in options.sizes:
                for whole, each in measure(ways, size, options.rounds):
                    rows.append(bundle | whole)
                    stages.append(bundle | each)
    shown = [
        {**bundle_of(row), "way": way, **{stage: row[f"{way}: {stage}"] for stage in STAGES}}
        for row in stages
        if (row["format"], row["size"], row["prompt"]) == ("PNG", 512, "with")
        for way in (OURS, PAPERS, CLIP, MILVUS)
    ]
    config = {
        "threads": 1, "rounds": options.rounds, "top": TOP, "prompt": PROMPT, "clock": "wall, median", "unit": "ms",
    }  # fmt: skip
    tables = {"milliseconds a query": rows, "its stages, PNG of 512 px with a prompt": shown, "all": stages}
    emit("alternatives", config, tables, judge(rows), options.json)


def bundle_of(row: Row) -> Row:
    return {name: row[name] for name in ("encoder", "items")}


if __name__ == "__main__":
    main()
