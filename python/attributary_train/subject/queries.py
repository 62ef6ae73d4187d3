"""Queries: generated images with everything that is needed to generate them again, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from attributary_train.errors import SubjectError
from attributary_train.files import reading, whole
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.sample import sample
from attributary_train.subject.text import token_states

FACTS = ("weights", "shape", "tokens", "steps", "guidance")
COLUMNS = ("name", "split", "kind", "prompt", "seed", "latent")

SPLITS = ("train", "validation", "test")
KINDS = ("seen", "recombined", "unseen")


@dataclass(frozen=True)
class Queries:
    """Generated images of one model. Row q has: id `names[q]` (unique), split, kind, prompt, seed; latents float32
    [Q, C, h, w] as the sampler left them; text float32 [Q, T, D]; `weights` is the hash of the model that made them."""

    names: tuple[str, ...]
    splits: tuple[str, ...]
    kinds: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    latents: Tensor
    text: Tensor
    weights: str
    steps: int
    guidance: float
    # Digest of the text encoder of an adopted model; empty for MiniLM.
    reader: str = ""
    # Whether a file of them keeps their states too: the encoders of a family may be larger than its denoiser.
    keeps_text: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int]) -> Queries:
        """The queries of the rows, in that order."""
        pick = list(rows)
        return replace(
            self,
            names=tuple(self.names[r] for r in pick),
            splits=tuple(self.splits[r] for r in pick),
            kinds=tuple(self.kinds[r] for r in pick),
            prompts=tuple(self.prompts[r] for r in pick),
            seeds=tuple(self.seeds[r] for r in pick),
            latents=self.latents[pick],
            text=self.text[pick],
        )

    def split(self, name: str) -> Queries:
        """The queries of one split."""
        if name not in SPLITS:
            raise SubjectError("split", f"{name!r}; there are {', '.join(SPLITS)}")
        return self.take([row for row, split in enumerate(self.splits) if split == name])


@dataclass(frozen=True)
class Prompt:
    """What to generate: `kind` says how the prompt relates to the training set."""

    text: str
    kind: str
    split: str
    seed: int


def generate(
    model: SubjectModel, prompts: Sequence[Prompt], tokens: int, *, steps: int = 30, guidance: float = 3.0
) -> Queries:
    """Generate one image a prompt; `tokens` is the length that MiniLM's states are cut to."""
    states = model.token_states([*(p.text for p in prompts), ""], tokens)
    text, empty = states[:-1].clone(), states[-1].clone()
    latents = sample(model, text, empty, [p.seed for p in prompts], steps=steps, guidance=guidance)
    counts = dict.fromkeys(SPLITS, 0)
    names = []
    for prompt in prompts:
        names.append(f"{prompt.split}-{counts[prompt.split]:04d}")
        counts[prompt.split] += 1
    return Queries(
        tuple(names),
        tuple(p.split for p in prompts),
        tuple(p.kind for p in prompts),
        tuple(p.text for p in prompts),
        tuple(p.seed for p in prompts),
        latents,
        text,
        model.weights,
        steps,
        guidance,
        "" if model.text is None else model.text.digest,
        model.layout is not None,
    )


def save_queries(queries: Queries, path: Path) -> None:
    """Write Parquet: recipe of every image and its latent (float32 bytes); atomic.

    Raises `SubjectError` if it cannot be written.
    """
    table = pa.table(
        {
            "name": queries.names,
            "split": queries.splits,
            "kind": queries.kinds,
            "prompt": queries.prompts,
            "seed": pa.array(queries.seeds, pa.int64()),
            "latent": [row.numpy().tobytes() for row in queries.latents],
        }
    )
    if queries.keeps_text:
        table = table.append_column("text", pa.array([row.numpy().tobytes() for row in queries.text]))
    facts = {
        "weights": queries.weights,
        "steps": queries.steps,
        "guidance": queries.guidance,
        "sampler": "ddim",
        "shape": list(queries.latents.shape[1:]),
        "tokens": queries.text.shape[1],
        **({"text_encoder": queries.reader} if queries.reader else {}),
    }
    with whole(path, SubjectError) as stream:
        pq.write_table(
            table.replace_schema_metadata({"queries": json.dumps(facts)}), stream, compression="zstd"
        )


def load_queries(path: Path, model: SubjectModel | None = None) -> Queries:
    """Read what `save_queries` wrote; raises `SubjectError` if the file is damaged, lacks a column, or if `model` is
    not the one that made them. Those of an adopted model are read with that model, whose encoder reads the prompts.
    """
    with reading(path, SubjectError, "not a file of queries"):
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"queries"])
        missing = [name for name in FACTS if name not in facts]
    missing += [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise SubjectError(str(path), f"not a file of queries: lacks {', '.join(missing)}")
    if model is not None and facts["weights"] != model.weights:
        raise SubjectError(str(path), f"made by model {facts['weights'][:12]}, not by {model.weights[:12]}")
    own, reader = None if model is None else model.text, facts.get("text_encoder", "")
    if reader != ("" if own is None else own.digest):
        raise SubjectError(str(path), "its prompts were read by another text encoder than the model's")
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in COLUMNS}
    shape = tuple(facts["shape"])
    with reading(path, SubjectError, f"a latent is not float32 {list(shape)}"):
        latents = np.stack([np.frombuffer(raw, np.float32).reshape(shape) for raw in columns["latent"]])
    prompts, tokens = columns["prompt"], facts["tokens"]
    keeps = "text" in table.column_names
    if keeps:
        raw = b"".join(cast(list[bytes], table["text"].to_pylist()))
        text = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(len(prompts), tokens, -1)
    else:
        text = token_states(prompts, tokens) if model is None else model.token_states(prompts, tokens)
    return Queries(
        tuple(columns["name"]),
        tuple(columns["split"]),
        tuple(columns["kind"]),
        tuple(columns["prompt"]),
        tuple(columns["seed"]),
        torch.from_numpy(latents.copy()),
        text,
        facts["weights"],
        facts["steps"],
        facts["guidance"],
        reader,
        keeps,
    )
