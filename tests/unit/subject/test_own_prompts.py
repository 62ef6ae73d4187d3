"""Prompts of one's own as queries."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary_train.errors import SubjectError
from attributary_train.subject.own_prompts import own_prompts, read_prompts

PROMPTS = ["a cat", "a dog, in rain", " ", "a  cat", "two trees", "fog", "a boat"]


@pytest.fixture(params=["lines.txt", "log.csv", "log.parquet"])
def file(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".txt":
        path.write_text("\ufeff" + "\n".join(PROMPTS) + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        lines = [f'"{prompt}",7' for prompt in PROMPTS]
        path.write_text("prompt,user\n" + "\n".join(lines) + "\n")
    else:
        pq.write_table(pa.table({"prompt": [*PROMPTS, None], "user": [7] * 8}), path)
    return path


def test_prompts_of_lines_and_of_logs_are_split_and_repeated_where_they_are_few(file):
    assert read_prompts(file) == ["a cat", "a dog, in rain", "a cat", "two trees", "fog", "a boat"]
    prompts = own_prompts(file, {"fog"}, {"train": 8, "validation": 3, "test": 2})
    splits = {name: {p.text for p in prompts if p.split == name} for name in ("train", "validation", "test")}
    assert [sum(p.split == name for p in prompts) for name in splits] == [8, 3, 2]
    assert not splits["train"] & splits["validation"]
    assert not (splits["train"] | splits["validation"]) & splits["test"]
    assert {p.text: p.kind for p in prompts}.items() <= {
        "fog": "seen", "a cat": "unseen", "a dog, in rain": "unseen", "two trees": "unseen", "a boat": "unseen"
    }.items()  # fmt: skip
    assert len({p.seed for p in prompts}) == 13
    assert own_prompts(file, (), {"train": 8}) == own_prompts(file, (), {"train": 8})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"text\nx\n", "no column 'prompt'"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read"),
        ("a.txt", b"\n\none\n", "holds 1 different prompts; at least 2"),
    ],
)
def test_a_file_that_gives_none_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SubjectError, match=words) as said:
        own_prompts(tmp_path / name, (), {"train": 1, "test": 1})
    assert name in str(said.value)
