"""The prompt that a picture was generated from: the positive prompt alone, as its generator saw the words.

Generators leave more than that where they leave it: negative prompts, settings, weights, tags of LoRAs, whole graphs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ORIGINS = ("column", "sidecar", "table", "picture")
# Nodes of a graph that are looked at.
_MAX_NODES = 400
# Nested brackets that are taken off, and characters of a text that is looked through for them.
_MAX_DEPTH = 20
_MAX_CLEANED = 1 << 16

_SETTINGS = re.compile(r"^(Steps: *\d+\b.*|Negative prompt:.*)$", re.MULTILINE)
_TAG = re.compile(r"<\s*(lora|lyco|lycoris|hypernet|loha|lokr|embedding)\s*:[^<>]*>", re.IGNORECASE)
# Digits in one way only: of a long row of them every other way would be tried.
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_WEIGHTED = re.compile(rf"\(([^()]*):\s*[-+]?{_NUMBER}\s*\)")
_BRACKETED = re.compile(r"(?<!\\)[(\[{]([^()\[\]{}]*)(?<!\\)[)\]}]")
_EDIT = re.compile(rf"\[([^\[\]:|]*):([^\[\]:|]*):\s*{_NUMBER}\s*\]")
_NOVELAI_WEIGHT = re.compile(r"(-?\d{1,4}(?:\.\d{1,4})?)::(.*?)::")
_INVOKE_WEIGHT = re.compile(r"\)(?:[+-]+|\d*\.?\d+)|(?<=\w)(?:\+{1,}|-{2,})(?=[\s,.)]|$)")
_MIDJOURNEY = re.compile(r"\s+--\w+( [^-\s]\S*)?|\s*Job ID: [0-9a-f-]+.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the encoder is given it, as it was found, and where."""

    text: str = ""
    original: str = ""
    source: str = ""


def of_text(text: str, source: str) -> Prompt:
    """Make a prompt of a text of the log, which may be a generator's own notation."""
    generated, style = _unfolded(text.strip(), "")
    return Prompt(words(generated, style), text.strip(), source)


def of_picture(texts: Mapping[str, str]) -> Prompt:
    """Find the prompt among the texts that a picture's file carries; an empty one if there is none."""
    for name, reading in _READINGS:
        text = texts.get(name, "").strip("\0 \r\n\t")
        if not text:
            continue
        found = reading(text, texts)
        if found and (said := words(*found)):
            return Prompt(said, text, found[1])
    return Prompt()


def words(text: str, style: str = "") -> str:
    """Return a prompt's words: without LoRA tags and weights, and without the brackets that `style` uses for them."""
    text = re.sub(r"\s+", " ", text)
    if len(text) > _MAX_CLEANED:
        # It will be refused for its length; its brackets are not worth the time.
        return text.strip()
    text = _repeated(_WEIGHTED, _unweighted, _TAG.sub("", text))
    if style in ("a1111", "comfyui", "fooocus", "swarmui"):
        text = _EDIT.sub(lambda found: " ".join(part for part in found.groups() if part), text)
        text = re.sub(r"\b(BREAK|AND)\b(\s*:\s*[\d.]+)?", ",", text)
    if style == "novelai":
        text = _NOVELAI_WEIGHT.sub(r"\2", text)
    if style == "invokeai":
        text = _INVOKE_WEIGHT.sub(lambda found: ")" if found[0].startswith(")") else "", text)
    if style == "midjourney":
        text = _MIDJOURNEY.sub("", text)
    if style:
        text = _repeated(_BRACKETED, r"\1", text)
        text = re.sub(r"\\([()\[\]{}])", r"\1", text)
    return _tidy(text)


def _repeated(pattern: re.Pattern[str], by: str | Callable[[re.Match[str]], str], text: str) -> str:
    for _ in range(_MAX_DEPTH):
        text, count = pattern.subn(by, text)
        if not count:
            break
    return text


def _unweighted(found: re.Match[str]) -> str:
    # A ratio such as (16:9) is no weight.
    inner = found[1].strip()
    return (
        found[0].replace("(", "\ue000").replace(")", "\ue001") if re.fullmatch(r"[\d.\s]*", inner) else inner
    )


def _tidy(text: str) -> str:
    text = text.replace("\ue000", "(").replace("\ue001", ")")
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?:\s*,)+(?=\s*,)", "", text)
    return re.sub(r"\s+,", ",", text).strip(" ,\n")


def _unfolded(text: str, style: str) -> tuple[str, str]:
    """(positive prompt, style) of a text that may be A1111's block or JSON of any generator."""
    if text[:1] in "{[" and text[-1:] in "}]" and text:
        try:
            found = _of_json(json.loads(text), style)
        except (ValueError, RecursionError):
            found = None
        return found or ((text, style) if text[:1] != "{" or '"' not in text else ("", style))
    first = _SETTINGS.search(text)
    if first is None:
        return text, style
    return text[: first.start()].strip(), style or "a1111"


def _of_json(value: Any, style: str) -> tuple[str, str] | None:
    """(positive prompt, style) of the JSON that a generator left."""
    if not isinstance(value, dict):
        return None
    if is_graph(value):
        return _graph_prompt(value), "comfyui"
    if isinstance(value.get("prompt"), dict) and is_graph(value["prompt"]):
        return _graph_prompt(value["prompt"]), "comfyui"
    sui = value.get("sui_image_params")
    if isinstance(sui, dict) and isinstance(sui.get("prompt"), str):
        return sui["prompt"], "swarmui"
    version_4 = value.get("v4_prompt")
    if isinstance(version_4, dict):
        return _novelai_4(version_4) or str(value.get("prompt") or ""), "novelai"
    if "uc" in value and isinstance(value.get("prompt"), str):
        return value["prompt"], "novelai"
    image = value.get("image")
    if isinstance(image, dict) and "prompt" in image:
        return _invoke_old(image["prompt"]), "invokeai"
    for name, of in (
        ("positive_prompt", "invokeai"),
        ("Prompt", "fooocus"),
        ("prompt", style or "fooocus"),
        ("c", "drawthings"),
    ):
        if isinstance(value.get(name), str) and value[name].strip():
            return _unfolded(value[name], of) if name != "prompt" or not style else (value[name], of)
    return None


def _invoke_old(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(
            part if isinstance(part, str) else str(part.get("prompt", "")) if isinstance(part, dict) else ""
            for part in value
        )
    # Its negative words stood in brackets.
    return re.sub(r"\[[^\[\]]*\]", "", value) if isinstance(value, str) else ""


def _novelai_4(value: Mapping[str, Any]) -> str:
    caption = value.get("caption")
    if not isinstance(caption, dict):
        return ""
    characters = caption.get("char_captions")
    parts = [caption.get("base_caption")] + [
        part.get("char_caption") for part in characters if isinstance(part, dict)
    ] if isinstance(characters, list) else [caption.get("base_caption")]  # fmt: skip
    return ", ".join(part for part in parts if isinstance(part, str) and part)


def is_graph(value: Mapping[str, Any]) -> bool:
    """Whether JSON is a graph of ComfyUI's."""
    return any(isinstance(node, dict) and "class_type" in node for node in value.values())


def _graph_prompt(graph: Mapping[str, Any]) -> str:
    """The text that a ComfyUI graph's samplers are led to by their positive inputs; else of its only text encoders."""
    first = list(graph.items())[:_MAX_NODES]
    nodes = {str(name): node for name, node in first if isinstance(node, dict)}
    inputs = {name: node["inputs"] for name, node in nodes.items() if isinstance(node.get("inputs"), dict)}
    for way in ("positive", "guider", "conditioning"):
        texts: list[str] = []
        for name, given in inputs.items():
            if "sampler" in str(nodes[name].get("class_type", "")).lower() and way in given:
                texts += [text for text in _follow(given[way], inputs) if text not in texts]
        if texts:
            return ", ".join(texts)
    negative = {text for given in inputs.values() for text in _follow(given.get("negative"), inputs)}
    found = [
        text
        for name, given in inputs.items()
        if "textencode" in str(nodes[name].get("class_type", "")).lower()
        for text in _own_texts(given)
        if text not in negative
    ]
    return ", ".join(dict.fromkeys(found))


def _follow(link: Any, inputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Texts that a link leads to, each node once; what is linked as negative is not followed."""
    found: list[str] = []
    waiting: list[Any] = [link]
    seen: set[str] = set()
    while waiting and len(seen) < _MAX_NODES:
        to = waiting.pop(0)
        if not (isinstance(to, list) and len(to) == 2 and isinstance(to[0], str | int)):
            continue
        name = str(to[0])
        if name in seen or name not in inputs:
            continue
        seen.add(name)
        given = inputs[name]
        found += [text for text in _own_texts(given) if text not in found]
        waiting += [
            value for key, value in given.items() if isinstance(value, list) and key not in _NOT_FOLLOWED
        ]
    return found


_NOT_FOLLOWED = (
    "negative", "model", "clip", "vae", "latent_image", "control_net", "image", "pixels", "samples", "noise",
)  # fmt: skip
_TEXT_INPUTS = (
    *("text", "text_g", "text_l", "t5xxl", "clip_l", "clip_g", "string", "prompt", "positive", "value"),
    *("wildcard_text", "populated_text"),
)


# Inputs of nodes that join texts.
_PART = re.compile(r"(?:text|string)_?[a-d1-9]")


def _own_texts(given: Mapping[str, Any]) -> list[str]:
    names = [*_TEXT_INPUTS, *(name for name in given if _PART.fullmatch(name))]
    texts = [given[name].strip() for name in names if isinstance(given.get(name), str)]
    return list(dict.fromkeys(text for text in texts if text))


Found = tuple[str, str] | None


def _parameters(text: str, texts: Mapping[str, str]) -> Found:
    style = "fooocus" if "fooocus_scheme" in texts or "Fooocus" in texts.get("Software", "") else "a1111"
    if text.startswith("{"):
        return _unfolded(text, "" if style == "a1111" else style)
    return _unfolded(text, style)[0], style


def _plain_or_graph(text: str, texts: Mapping[str, str]) -> Found:
    found = _unfolded(text, "")
    return (found[0], found[1] or "png")


def _invoke(text: str, texts: Mapping[str, str]) -> Found:
    if text.startswith("{"):
        return _unfolded(text, "invokeai")
    quoted = re.match(r'"(.*?)"(\s+-|$)', text, re.DOTALL)
    return (quoted[1] if quoted else text, "invokeai")


def _novelai(text: str, texts: Mapping[str, str]) -> Found:
    if "NovelAI" not in texts.get("Software", "") + texts.get("Source", "") and '"uc"' not in text:
        return None
    return _unfolded(text, "novelai")


def _description(text: str, texts: Mapping[str, str]) -> Found:
    if "NovelAI" in texts.get("Software", ""):
        return text, "novelai"
    return (text, "midjourney") if "Job ID:" in text else None


def _comment(text: str, texts: Mapping[str, str]) -> Found:
    if text.startswith("{"):
        found = _unfolded(text, "")
        return found if found[0] else None
    return _unfolded(text, "a1111") if _SETTINGS.search(text) else (text, "usercomment")


def _make(text: str, texts: Mapping[str, str]) -> Found:
    # ComfyUI's WebP: "prompt:{...}" in tags of another purpose.
    name, _, graph = text.partition(":")
    return _unfolded(graph, "") if name.lower() == "prompt" and graph.startswith("{") else None


def _jpeg_comment(text: str, texts: Mapping[str, str]) -> Found:
    return _novelai(text, texts) or (_unfolded(text, "") if _SETTINGS.search(text) else None)


# Where to look, in this order: keywords of PNG texts and EXIF tags.
_READINGS = (
    ("parameters", _parameters),
    ("invokeai_metadata", _invoke),
    ("sd-metadata", _invoke),
    ("Dream", _invoke),
    ("dream", _invoke),
    ("Comment", _jpeg_comment),
    ("Description", _description),
    ("prompt", _plain_or_graph),
    ("UserComment", _comment),
    ("Make", _make),
    ("Model", _make),
    ("ImageDescription", _make),
    ("XPComment", _comment),
)
