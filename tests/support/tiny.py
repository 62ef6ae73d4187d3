"""A bundle small enough for a test: drawn pictures, an encoder of a few nodes, a tokenizer of a few words."""

import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SIZE, CELLS, WORDS, MAX_TOKENS = 32, 8, 64, 16
TEXT_DIM = 16
DIM = CELLS * CELLS * 3 + TEXT_DIM + 1
CREATORS = ("Ann", "Bo", "Cy", "Dee")
LICENCES = ("CC0-1.0", "MIT")
SHAPES = ("ellipse", "rectangle")
COLOURS = ("red", "green", "blue", "orange", "purple")


def draw_corpus(directory: Path, items: int = 60) -> Path:
    """Write `items.parquet` and its pictures, 64 px: coloured shapes by four creators; ids from 1000."""
    (directory / "pictures").mkdir(parents=True)
    rng = np.random.default_rng(7)
    rows = []
    for number in range(items):
        shape, colour = SHAPES[number % 2], COLOURS[number % 5]
        picture = Image.new("RGB", (64, 64), tuple(int(level) for level in rng.integers(200, 256, 3)))
        left, top = (int(value) for value in rng.integers(0, 30, 2))
        width, height = (int(value) for value in rng.integers(15, 34, 2))
        getattr(ImageDraw.Draw(picture), shape)((left, top, left + width, top + height), fill=colour)
        name = f"pictures/{number}.png"
        picture.save(directory / name)
        rows.append(
            {
                "id": 1000 + number,
                "caption": f"a {colour} {shape}",
                "creator": CREATORS[number % len(CREATORS)],
                "creator_url": "",
                "licence": LICENCES[number % len(LICENCES)],
                "uri": f"file:{name}",
                "near_dup_group": number,
                "file": name,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), directory / "items.parquet")
    return directory


def write_encoder(directory: Path, seed: int = 3) -> Path:
    """Write `encoder.onnx` (mean colours of 8 x 8 cells, a bag of words, a constant; unit length) and a tokenizer.

    Another seed is another encoder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(_encoder(seed), directory / "encoder.onnx")
    _tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def _encoder(seed: int) -> onnx.ModelProto:
    cell = SIZE // CELLS
    constants = {
        "scale": np.float32(1 / 255),
        "half": np.float32(0.5),
        "weight": np.float32(0.2),
        "cells": np.array([-1, CELLS, cell, CELLS, cell, 3]),
        "flat": np.array([-1, CELLS * CELLS * 3]),
        "inside": np.array([2, 4]),
        "words": np.array([1]),
        "last": np.array([2]),
        "table": np.random.default_rng(seed).standard_normal((WORDS, TEXT_DIM)).astype(np.float32),
        "zero": np.float32(0),
        "first": np.array([0]),
        "second": np.array([1]),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        node("Mul", ["float", "scale"], ["unit"]),
        node("Sub", ["unit", "half"], ["centred"]),
        node("Reshape", ["centred", "cells"], ["tiles"]),
        node("ReduceMean", ["tiles", "inside"], ["means"], keepdims=0),
        node("Reshape", ["means", "flat"], ["image"]),
        node("Gather", ["table", "token_ids"], ["vectors"], axis=0),
        node("Cast", ["token_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["mask3"]),
        node("Mul", ["vectors", "mask3"], ["kept"]),
        node("ReduceSum", ["kept", "words"], ["bag"], keepdims=0),
        node("Mul", ["bag", "weight"], ["text"]),
        # A column of 0.5: no picture, not even a grey one, has length 0.
        node("Slice", ["image", "first", "second", "second"], ["column"]),
        node("Mul", ["column", "zero"], ["nothing"]),
        node("Add", ["nothing", "half"], ["constant"]),
        node("Concat", ["image", "text", "constant"], ["joined"], axis=1),
        node("LpNormalization", ["joined"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", SIZE, SIZE, 3]),
            helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["B", "T"]),
            helper.make_tensor_value_info("token_mask", TensorProto.INT64, ["B", "T"]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", DIM])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    facts = {"attributary.name": f"tiny-{seed}", "attributary.max_tokens": str(MAX_TOKENS)}
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    return model


def _tokenizer() -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", *COLOURS, *SHAPES]
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def write_generator(directory: Path) -> Path:
    """Write what `attributary-train subject export` writes, of a few nodes: pictures of 16 px, of noise."""
    directory.mkdir(parents=True, exist_ok=True)
    _tokenizer().save(str(directory / "tokenizer.json"))
    rows = "B"
    text = ([("ids", TensorProto.INT64, [rows, "T"]), ("mask", TensorProto.INT64, [rows, "T"])], "states",
            [helper.make_node("Cast", ["ids"], ["cast"], to=TensorProto.FLOAT),
             helper.make_node("Unsqueeze", ["cast", "axis"], ["states"])],
            {"axis": np.array([2])})  # fmt: skip
    latents = ("latents", TensorProto.FLOAT, [rows, 4, 8, 8])
    asked = [latents, ("timestep", TensorProto.INT64, [rows]), ("states", TensorProto.FLOAT, [rows, "T", 1])]
    # The noise that was put in, a little more where there are words.
    denoiser = (asked, "noise",
                [helper.make_node("ReduceMean", ["states", "inner"], ["words"], keepdims=1),
                 helper.make_node("Unsqueeze", ["words", "axis"], ["wide"]),
                 helper.make_node("Mul", ["wide", "little"], ["more"]),
                 helper.make_node("Mul", ["latents", "most"], ["same"]),
                 helper.make_node("Add", ["same", "more"], ["noise"])],
                {"inner": np.array([1, 2]), "axis": np.array([3]), "little": np.float32(0.01),
                 "most": np.float32(0.9)})  # fmt: skip
    decoder = ([latents], "pixels",
               [helper.make_node("Slice", ["latents", "zero", "three", "one"], ["rgb"]),
                helper.make_node("Resize", ["rgb", "", "twice"], ["large"], mode="nearest"),
                helper.make_node("Sigmoid", ["large"], ["unit"]),
                helper.make_node("Mul", ["unit", "most"], ["pixels"])],
               {"zero": np.array([0]), "three": np.array([3]), "one": np.array([1]),
                "twice": np.array([1, 1, 2, 2], np.float32), "most": np.float32(255)})  # fmt: skip
    for name, (inputs, output, nodes, constants) in {
        "text": text,
        "denoiser": denoiser,
        "decoder": decoder,
    }.items():
        graph = helper.make_graph(
            nodes, name, [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
        )  # fmt: skip
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
            directory / f"{name}.onnx",
        )
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).tolist()
    facts = {
        "schema_version": 1, "weights": "ab" * 32, "tokens": 8, "shape": [4, 8, 8], "alphas": alphas,
        "last_alpha": alphas[0], "offset": 1,
    }  # fmt: skip
    (directory / "generator.json").write_text(json.dumps(facts))
    return directory
