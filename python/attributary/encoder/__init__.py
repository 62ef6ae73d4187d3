"""From a query's bytes and prompt to its embedding: decode, prepare, tokenise, encode."""

from __future__ import annotations

from attributary.pictures import decode, prepare_pixels

from .base import Encoder, EncoderSpec
from .onnx import OnnxEncoder
from .text import PromptTokenizer

__all__ = ["Encoder", "EncoderSpec", "OnnxEncoder", "PromptTokenizer", "decode", "prepare_pixels"]
