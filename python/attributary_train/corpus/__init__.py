"""Corpora of training images: what was drawn, by whom, under which licence."""

from attributary_train.corpus.corpus import Corpus
from attributary_train.corpus.item import Item, item_id
from attributary_train.errors import CorpusError, FetchError

__all__ = ["Corpus", "CorpusError", "FetchError", "Item", "item_id"]
