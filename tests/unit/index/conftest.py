"""A bundle in memory, and a Milvus: milvus-lite in this process, or the one that ATTRIBUTARY_TEST_MILVUS_URI names."""

import os
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from attributary.bundle.bundle import Bundle
from attributary.bundle.golden import Golden
from attributary.bundle.items import ItemTable
from attributary.bundle.manifest import (
    Calibration,
    EncoderEntry,
    IndexEntry,
    Manifest,
    ShareCalibration,
    SubjectEntry,
)
from attributary.index.tuning import exact_neighbours

CREATORS, LICENCES = 7, 3


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def bundle_of(vectors, factory="IVF64,PQ12", nprobe=8, candidates=50, version="1", golden=None):
    """A bundle without files: rows of `vectors`, ids from 10, creators and licences in turn."""
    size, dim = vectors.shape
    table = pa.table(
        {
            "id": np.arange(10, 10 + size),
            "caption": [""] * size,
            "creator": [f"creator {row % CREATORS}" for row in range(size)],
            "creator_url": [""] * size,
            "licence": [f"licence {row % LICENCES}" for row in range(size)],
            "uri": [""] * size,
            "near_dup_group": np.arange(size),
        }
    )
    shares = ShareCalibration(0.05, 0.02, 0.5, 0.3)
    manifest = Manifest(
        schema_version=1,
        version=version,
        subject=SubjectEntry("none", ""),
        student="none",
        encoder=EncoderEntry("none", "ab" * 32, dim, 32, 16, ""),
        index=IndexEntry(factory, "ab" * 32, nprobe, candidates, 0.98, 100, 20.0, 2.0 * dim),
        calibration=Calibration("", shares, shares),
        item_count=size,
        creator_count=CREATORS,
        files={},
    )
    queries = unit(vectors[:20].astype(np.float32)) if golden is None else golden
    rows = exact_neighbours(vectors, queries, 10)
    similarity = np.einsum("qd,qkd->qk", queries, vectors[rows].astype(np.float32))
    none = np.zeros((len(queries), 1), np.int64)
    known = Golden(
        pixels=np.zeros((len(queries), 1, 1, 3), np.uint8),
        token_ids=none,
        token_mask=none,
        embeddings=queries,
        ids=rows + 10,
        similarity=similarity,
        share=np.zeros_like(similarity),
        diffuse=np.zeros(len(queries), np.float32),
    )
    return Bundle(Path("nowhere"), manifest, ItemTable(table), vectors, known)


@pytest.fixture(scope="session")
def cloud():
    """Function: (rows, dimensions, seed) -> fp16 unit vectors in clusters."""

    def draw(size, dim, seed=0):
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(max(1, size // 30), dim))
        points = centres[rng.integers(0, len(centres), size)] + 0.6 * rng.normal(size=(size, dim))
        return unit(points).astype(np.float16)

    return draw


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory):
    """Where the tests' Milvus is."""
    return os.environ.get("ATTRIBUTARY_TEST_MILVUS_URI") or str(tmp_path_factory.mktemp("milvus") / "lite.db")


@pytest.fixture(scope="session")
def milvus(milvus_uri):
    """A connection; what the tests push is dropped afterwards."""
    from attributary.index.milvus_client import MilvusServer

    server = MilvusServer(milvus_uri, os.environ.get("ATTRIBUTARY_TEST_MILVUS_TOKEN", ""), timeout_s=30)
    yield server
    for name in server.call("list_collections"):
        if name.startswith("test_"):
            server.call("drop_collection", name)
    server.close()


@pytest.fixture
def free_port():
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
