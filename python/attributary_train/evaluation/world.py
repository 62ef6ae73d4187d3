"""What a benchmark's reader needs of a world besides its losses: items, queries, and nothing of the pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.opening import Subject
from attributary_train.files import whole
from attributary_train.subject.queries import Queries
from attributary_train.teacher.query_digest import query_digests

ITEMS, QUERIES = "items.parquet", "queries.parquet"


def describe(subject: Subject, queries: Queries, query_file: Path, out: Path) -> None:
    """Write items.parquet (id, uri, creator, licence, near-duplicate group and every caption of each item, in the order
    of the masks) and queries.parquet, unless they are there.

    Raises `EvaluationError` if the folder's queries are others.
    """
    out.mkdir(parents=True, exist_ok=True)
    known = out / QUERIES
    if not known.exists():
        shutil.copyfile(query_file, known)
    elif known.read_bytes() != query_file.read_bytes():
        raise EvaluationError(
            str(known), f"is another file than {query_file}; losses of both cannot be mixed"
        )
    items = [subject.corpus.item(int(number)) for number in subject.data.ids]
    captions = subject.data.captions
    about = (
        {"caption": list(subject.data.prompts)}
        if captions is None
        else {f"caption_{level}": captions.of_level(level) for level in captions.levels}
    )
    table = pa.table(
        {
            "id": pa.array(subject.data.ids),
            "uri": [item.uri for item in items],
            "creator": [item.creator for item in items],
            "licence": [item.licence_spdx for item in items],
            "near_dup_group": [item.near_dup_group for item in items],
            **about,
        }
    )
    with whole(out / ITEMS, EvaluationError) as stream:
        pq.write_table(table, stream, compression="zstd")
    # A query by its digest, so that scores of other pictures of the same name are refused.
    digests = dict(zip(queries.names, query_digests(queries), strict=True))
    digest_table = pa.table({"name": list(digests), "digest": list(digests.values())})
    with whole(out / "digests.parquet", EvaluationError) as stream:
        pq.write_table(digest_table, stream, compression="zstd")
