"""Law 6: prompts are found where generators put them, and are the positive prompt alone."""

import io
import json
import zlib
from struct import pack

import pytest
from PIL import Image, PngImagePlugin

from attributary.batch.picture_text import picture_texts
from attributary.batch.prompts import of_picture, of_text, words

A1111 = (
    "a (red:1.3) cat, <lora:detail_v2:0.8>, ((sharp)), [soft], sitting \\(on a wall\\)\n"
    "Negative prompt: (blurry:1.4), dog\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: x"
)
POSITIVE = "a red cat, sharp, soft, sitting (on a wall)"


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


COMFY = {
    "3": node("KSampler", model=["10", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
    "6": node("CLIPTextEncode", text=["20", 0], clip=["10", 1]),
    "7": node("CLIPTextEncode", text="blurry, dog", clip=["10", 1]),
    "10": node("LoraLoader", model=["4", 0], clip=["4", 1], lora_name="x"),
    "20": node("StringConcatenate", string="a (red:1.3) cat, sharp"),
}
FLUX = {
    "1": node("SamplerCustomAdvanced", noise=["2", 0], guider=["3", 0]),
    "3": node("BasicGuider", model=["9", 0], conditioning=["4", 0]),
    "4": node("FluxGuidance", guidance=3.5, conditioning=["5", 0]),
    "5": node("CLIPTextEncodeFlux", clip_l="a red cat, sharp", t5xxl="a red cat, sharp"),
}
SDXL = {
    "1": node("KSamplerAdvanced", positive=["2", 0], negative=["3", 0]),
    "2": node("ConditioningCombine", conditioning_1=["4", 0], conditioning_2=["5", 0]),
    "3": node("CLIPTextEncodeSDXL", text_g="bad", text_l="bad"),
    "4": node("CLIPTextEncodeSDXL", text_g="a red cat", text_l="a red cat"),
    "5": node("CLIPTextEncode", text="sharp"),
}
NOVELAI_4 = {
    "prompt": "old", "uc": "bad",
    "v4_prompt": {"caption": {"base_caption": "{{a red cat}}", "char_captions": [{"char_caption": "1.2::sharp::"}]}},
}  # fmt: skip

PNGS = {
    "a1111": ({"parameters": A1111}, POSITIVE, "a1111"),
    "a1111 without settings": ({"parameters": "a (red:1.3) cat, sharp"}, "a red cat, sharp", "a1111"),
    "a1111 without negative": (
        {"parameters": "a red cat, sharp\nSteps: 20, Sampler: Euler"}, "a red cat, sharp", "a1111",
    ),
    "a1111 in lines": ({"parameters": "a red cat,\nsharp\nSteps: 20, Sampler: Euler"}, "a red cat, sharp", "a1111"),
    "comfyui": ({"prompt": json.dumps(COMFY), "workflow": "{}"}, "a red cat, sharp", "comfyui"),
    "comfyui flux": ({"prompt": json.dumps(FLUX)}, "a red cat, sharp", "comfyui"),
    "comfyui sdxl": ({"prompt": json.dumps(SDXL)}, "a red cat, sharp", "comfyui"),
    "invokeai": (
        {"invokeai_metadata": json.dumps({"positive_prompt": "a red+ cat, (sharp)1.2", "negative_prompt": "bad"})},
        "a red cat, sharp", "invokeai",
    ),
    "invokeai 2": (
        {"sd-metadata": json.dumps({"image": {"prompt": [{"prompt": "a red cat, sharp [bad]", "weight": 1}]}})},
        "a red cat, sharp", "invokeai",
    ),
    "invokeai 1": ({"Dream": '"a red cat, sharp" -s 50 -S 1 -W512'}, "a red cat, sharp", "invokeai"),
    "fooocus": (
        {"parameters": json.dumps({"prompt": "a red cat, sharp", "negative_prompt": "b"}), "fooocus_scheme": "fooocus"},
        "a red cat, sharp", "fooocus",
    ),
    "fooocus as a1111": ({"parameters": A1111, "fooocus_scheme": "a1111"}, POSITIVE, "fooocus"),
    "novelai": (
        {"Software": "NovelAI", "Description": "{{a red cat}}, [sharp]",
         "Comment": json.dumps({"prompt": "{{a red cat}}, [sharp]", "uc": "bad", "steps": 28})},
        "a red cat, sharp", "novelai",
    ),
    "novelai 4": ({"Software": "NovelAI", "Comment": json.dumps(NOVELAI_4)}, "a red cat, sharp", "novelai"),
    "swarmui": (
        {"parameters": json.dumps({"sui_image_params": {"prompt": "a red cat, sharp", "negativeprompt": "bad"}})},
        "a red cat, sharp", "swarmui",
    ),
    "midjourney": (
        {"Description": "a red cat, sharp --ar 16:9 --v 5 Job ID: 01ab-2"}, "a red cat, sharp", "midjourney",
    ),
    "plain": ({"prompt": "a red cat, sharp"}, "a red cat, sharp", "png"),
}  # fmt: skip


def png(texts, kind="tEXt"):
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        if kind == "iTXt":
            info.add_itxt(name, text, zip=True)
        else:
            info.add_text(name, text, zip=kind == "zTXt")
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
@pytest.mark.parametrize("generator", PNGS)
def test_texts_of_a_png(generator, kind):
    texts, positive, source = PNGS[generator]
    found = of_picture(picture_texts(png(texts, kind)))
    assert (found.text, found.source) == (positive, source)
    assert found.original in [text.strip() for text in texts.values()]


def with_comment(value, form, order="<"):
    image = Image.new("RGB", (8, 8))
    exif = Image.Exif()
    exif.endian = order
    # Pillow writes no block into a PNG without a tag of the first directory.
    exif[0x0131] = "some program"
    exif.get_ifd(0x8769)[0x9286] = value
    out = io.BytesIO()
    image.save(out, form, exif=exif)
    return out.getvalue()


COMMENTS = {
    "big-endian": b"UNICODE\0" + A1111.encode("utf-16-be"),
    "little-endian": b"UNICODE\0" + A1111.encode("utf-16-le"),
    "marked": b"UNICODE\0" + A1111.encode("utf-16"),
    "utf-8": b"UNICODE\0" + A1111.encode(),
    "ascii": b"ASCII\0\0\0" + A1111.encode(),
    "undefined": bytes(8) + A1111.encode(),
    "without a code": A1111.encode(),
}


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("written", COMMENTS)
def test_user_comment(written, form):
    found = of_picture(picture_texts(with_comment(COMMENTS[written], form)))
    assert (found.text, found.original, found.source) == (POSITIVE, A1111, "a1111")


def test_user_comment_beyond_latin():
    text = "赤い猫、鋭い"
    for written in (text.encode("utf-16-be"), text.encode("utf-8")):
        assert of_picture(picture_texts(with_comment(b"UNICODE\0" + written, "JPEG"))).text == text


def test_comfyui_in_webp():
    image, exif, out = Image.new("RGB", (8, 8)), Image.Exif(), io.BytesIO()
    exif[0x010F] = "prompt:" + json.dumps(COMFY)
    exif[0x010E] = "workflow:{}"
    image.save(out, "WEBP", exif=exif)
    assert of_picture(picture_texts(out.getvalue())).text == "a red cat, sharp"


@pytest.mark.parametrize(
    ("text", "positive"),
    [
        ("a house (16:9)", "a house (16:9)"),
        ("plain (parentheses) and [brackets] stay", "plain (parentheses) and [brackets] stay"),
        ("(a (b:1.1) c:0.9), d", "a b c, d"),
        ("(x:-.5) (y: 1.25 )", "x y"),
        ("<lora:a:1><LORA:b:0.5>cat, , <hypernet:c:1>, dog", "cat, dog"),
        ("a: b, (c)", "a: b, (c)"),
        (A1111, POSITIVE),
        ('{"prompt": "a (cat:1.1)", "negative_prompt": "b"}', "a cat"),
        ("{red|blue} cat", "{red|blue} cat"),
        ("  ", ""),
    ],
)
def test_texts_of_a_log(text, positive):
    assert of_text(text, "column").text == positive
    assert of_text(text, "column").source == "column"


def test_hostile_metadata_is_bounded():
    bomb = zlib.compress(b"a" * (200 << 20), 9)
    chunk = b"zTXt" + b"parameters\0\0" + bomb
    data = b"\x89PNG\r\n\x1a\n" + pack(">I", len(chunk) - 4) + chunk + bytes(4) + bytes(12) * 100_000
    assert len(picture_texts(data)["parameters"]) <= 1 << 20
    ring = b"Exif\0\0II*\0\x08\0\0\0" + b"\x01\0" + pack("<HHII", 0x8769, 4, 1, 8) * 1
    picture_texts(b"\xff\xd8\xff\xe1" + pack(">H", len(ring) + 2) + ring)
    # Milliseconds each; what is quadratic runs into the suite's limit.
    for text in ("(" * 60_000, "((a:" * 15_000, "(" + " " * 60_000, ":1)" * 20_000, "1" * 60_000 + "::", "+" * 60_000,
                 " " * 60_000 + "--x", ", " * 30_000, "[" * 60_000 + "]" * 60_000, "<lora:" * 10_000,
                 "(a:" + "1" * 60_000, "[a:b:" + "1" * 60_000):  # fmt: skip
        for style in ("", "a1111", "novelai", "invokeai", "midjourney"):
            words(text, style)
    graph = {
        str(n): node("KSampler", positive=[str((n + 1) % 9000), 0], negative=["1", 0]) for n in range(9000)
    }
    of_text(json.dumps(graph), "json")


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_damaged_pictures_have_no_texts_and_raise_nothing(cut):
    for data in (
        png({"parameters": A1111}),
        with_comment(COMMENTS["ascii"], "JPEG"),
        with_comment(COMMENTS["ascii"], "WEBP"),
    ):
        picture_texts(data[: len(data) * cut // 200])
        picture_texts(data[:cut] + b"\xff" * 9 + data[cut:])
