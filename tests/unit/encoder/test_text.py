"""Prompts to tokens: special tokens, cutting, padding, and no prompt at all."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from attributary.encoder import PromptTokenizer
from attributary.errors import BundleError, InvalidArgumentError

CLS, SEP, UNKNOWN = 1, 2, 3
WORDS = ["red", "apple", "car"]


@pytest.fixture
def tokenizer_file(tmp_path):
    vocabulary = {"[PAD]": 0, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": UNKNOWN}
    vocabulary |= {word: 4 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    # As many published files have it: their own padding and truncation must not get through.
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(5)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_special_tokens_frame_the_words(tokenizer_file):
    tokens = PromptTokenizer.from_file(tokenizer_file, 16).encode("Red APPLE, please")
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [CLS, 4, 5, UNKNOWN, UNKNOWN, SEP]


def test_long_prompts_are_cut_and_keep_their_end_mark(tokenizer_file):
    tokenizer = PromptTokenizer.from_file(tokenizer_file, 6)
    assert tokenizer.encode("red car " * 20_000).tolist() == [CLS, 4, 6, 4, 6, SEP]


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "\0"])
def test_prompts_without_words_are_no_prompt(tokenizer_file, prompt):
    tokens = PromptTokenizer.from_file(tokenizer_file, 6).encode(prompt)
    assert tokens.dtype == np.int64
    assert tokens.shape == (0,)


def test_text_that_is_not_unicode_is_refused(tokenizer_file):
    with pytest.raises(InvalidArgumentError, match="Unicode") as caught:
        PromptTokenizer.from_file(tokenizer_file, 6).encode("red \ud800", field="queries[1].prompt")
    assert caught.value.field == "queries[1].prompt"


def test_padding_and_mask(tokenizer_file):
    tokenizer = PromptTokenizer.from_file(tokenizer_file, 6)
    ids, mask = tokenizer.pad([tokenizer.encode(prompt) for prompt in ("red", "", "red car")])
    assert ids.tolist() == [[CLS, 4, SEP, 0], [0, 0, 0, 0], [CLS, 4, 6, SEP]]
    assert mask.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert ids.dtype == mask.dtype == np.int64


def test_one_column_where_no_row_has_a_prompt(tokenizer_file):
    tokenizer = PromptTokenizer.from_file(tokenizer_file, 6)
    ids, mask = tokenizer.pad([tokenizer.encode("")] * 3)
    assert ids.shape == mask.shape == (3, 1)
    assert not mask.any()
    assert tokenizer.pad([])[0].shape == (0, 1)


def test_wrong_files_and_limits(tokenizer_file, tmp_path):
    with pytest.raises(BundleError, match=r"tokenizer\.json: .*at least 3"):
        PromptTokenizer.from_file(tokenizer_file, 2)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(BundleError, match=r"other\.json: is not a tokenizer"):
        PromptTokenizer.from_file(tmp_path / "other.json", 6)
    with pytest.raises(BundleError, match=r"missing\.json: cannot be read"):
        PromptTokenizer.from_file(tmp_path / "missing.json", 6)
