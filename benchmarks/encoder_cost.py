"""What an encoder costs on one core, one picture with its prompt at a time, beside what it is worth.

Exported students and their variants, the untuned encoder, and a ViT-B/16 at 224 px of the real architecture with random
weights (Dosovitskiy et al., 2021) as the yardstick that papers use. All take turns in one run. mAP comes from a file of
`attributary-train evaluate student --json`. Thread time: a core that others share is not charged to the encoder.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from html import escape
from pathlib import Path
from typing import Any

from common import Aim, aim, arguments, emit, interleaved

# Beside this script lies triton.py, which torch would take for its own triton.
sys.path.remove(str(Path(__file__).resolve().parent))

import numpy as np
import onnxruntime as ort

from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer

PROMPT = "hot air balloon, Fluent flat style"
YARDSTICK = "ViT-B/16 at 224 px"
# The aim: at most this share of the yardstick's cost, for at most this share of the best mAP.
SHARE, LOSS = 0.25, 0.02


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--student", action="append", type=Path, default=[], help="a student's folder; repeat"
    )
    parser.add_argument("--untuned", type=Path, help="the folder of `encoder export`")
    parser.add_argument("--agreement", type=Path, help="JSON of `evaluate student`")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--plot", type=Path, help="write the Pareto plot here (SVG)")
    options = parser.parse_args()
    worth = _worth(options.agreement)
    calls, about = {}, {}
    folders = [*options.student, *([options.untuned] if options.untuned else [])]
    for folder in folders:
        for path in sorted(folder.glob("encoder*.onnx")):
            variant = path.name.removesuffix(".onnx").removeprefix("encoder").strip(".") or "fp32"
            name = f"{folder.name} {variant}"
            key = folder.name if variant == "fp32" else name
            calls[name] = _call(path, folder / "tokenizer.json")
            value = worth.get("joined") if folder == options.untuned else worth.get(key)
            about[name] = {"megabytes": round(path.stat().st_size / 1e6, 1), "mAP": value}
    with tempfile.TemporaryDirectory() as scratch:
        calls[YARDSTICK] = _vit(Path(scratch) / "vit.onnx")
        about[YARDSTICK] = {
            "megabytes": round((Path(scratch) / "vit.onnx").stat().st_size / 1e6, 1),
            "mAP": None,
        }
        # Each follows a call of its own: whoever came behind the yardstick found its caches emptied.
        seconds = interleaved(calls, rounds=options.rounds, settle=1, clock=time.thread_time)
    yard = seconds[YARDSTICK]
    rows = [
        {
            "encoder": name,
            "milliseconds": round(1e3 * took, 3),
            "of_yardstick": round(took / yard, 4),
            **about[name],
        }
        for name, took in sorted(seconds.items(), key=lambda pair: pair[1])
    ]
    config = {
        "batch": 1, "threads": 1, "prompt": PROMPT, "rounds": options.rounds, "clock": "thread time, median",
        "onnxruntime": ort.__version__, "mAP_from": str(options.agreement) if options.agreement else None,
        "untuned_mAP": "that of its towers' joined features",
    }  # fmt: skip
    emit("encoder_cost", config, rows, _aims(rows), options.json)
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        options.plot.write_text(pareto_svg(rows))


def _worth(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    rows = json.loads(path.read_text())["results"]["agreement"]
    middle = [key for key in rows[0] if key.startswith("mAP(")][1]
    return {row["method"]: row[middle] for row in rows}


def _call(path: Path, tokenizer: Path) -> Any:
    encoder = OnnxEncoder(path, threads=1)
    size = encoder.spec.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    cut = PromptTokenizer.from_file(tokenizer, encoder.spec.max_tokens)
    ids, mask = cut.pad([cut.encode(PROMPT)])
    return lambda: encoder.encode(pixels, ids, mask)


def _vit(path: Path) -> Any:
    import torch
    from transformers import ViTConfig, ViTModel

    from attributary_train.towers.graph import to_onnx

    class Yardstick(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = ViTModel(ViTConfig(), add_pooling_layer=False)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.vit(pixel_values=pixels).last_hidden_state[:, 0]
            return features

    torch.manual_seed(0)
    example = torch.zeros(2, 3, 224, 224)
    with torch.no_grad():
        to_onnx(Yardstick(), [example], {"pixels": {0: "B"}}, "features", path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    one = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    return lambda: session.run(None, {"pixels": one})


def _aims(rows: list[dict[str, Any]]) -> list[Aim]:
    judged = [row for row in rows if row["mAP"] is not None]
    if not judged:
        return []
    best = max(row["mAP"] for row in judged)
    good = [row for row in judged if row["mAP"] >= (1 - LOSS) * best]
    cheapest = min(good, key=lambda row: row["milliseconds"])
    return [
        aim(
            f"cost of the cheapest encoder within {LOSS:.0%} of the best mAP, as a share of {YARDSTICK}",
            cheapest["of_yardstick"], SHARE, "share", cheapest["of_yardstick"] <= SHARE,
            f"{cheapest['encoder']}, mAP {cheapest['mAP']} of {best}",
        )
    ]  # fmt: skip


def pareto_svg(rows: list[dict[str, Any]]) -> str:
    """mAP over milliseconds, logarithmic; the yardstick as a line, a quarter of it dashed."""
    judged = [row for row in rows if row["mAP"] is not None]
    yard = next(row["milliseconds"] for row in rows if row["encoder"] == YARDSTICK)
    low = 0.7 * min(row["milliseconds"] for row in rows)
    width, height, left, bottom = 760, 380, 60, 50

    def across(value: float) -> float:
        return left + (width - left - 30) * float(np.log(value / low) / np.log(2.0 * yard / low))

    def up(value: float) -> float:
        return height - bottom - (height - bottom - 30) * value

    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        "font-family='system-ui, sans-serif' font-size='12'>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
    ]
    for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        y = up(value)
        parts.append(f"<line x1='{left}' x2='{width - 30}' y1='{y}' y2='{y}' stroke='#e4e4ea'/>")
        parts.append(f"<text x='{left - 8}' y='{y + 4}' text-anchor='end' fill='#6c6c76'>{value:.1f}</text>")
    for value, dash, text in (
        (yard, "", YARDSTICK),
        (SHARE * yard, " stroke-dasharray='4 4'", "a quarter of it"),
    ):
        x = across(value)
        parts.append(f"<line x1='{x}' x2='{x}' y1='30' y2='{height - bottom}' stroke='#b4661e'{dash}/>")
        parts.append(f"<text x='{x + 4}' y='24' fill='#b4661e' text-anchor='middle'>{text}</text>")
    for value in (0.5, 1, 2, 5, 10, 20, 50, 100):
        if low < value < 2 * yard:
            place = f"x='{across(value)}' y='{height - bottom + 18}' text-anchor='middle'"
            parts.append(f"<text {place} fill='#6c6c76'>{value:g}</text>")
    for number, row in enumerate(judged):
        x, y = across(row["milliseconds"]), up(row["mAP"])
        parts.append(f"<circle cx='{x}' cy='{y}' r='5' fill='#266ebe'/>")
        parts.append(
            f"<text x='{x + 8}' y='{y + 4 + 14 * (number % 3 - 1)}' fill='#1e1e22'>{escape(row['encoder'])}</text>"
        )
    place = f"x='{width / 2}' y='{height - 10}' text-anchor='middle'"
    parts.append(f"<text {place}>milliseconds of one core, one picture and prompt</text>")
    parts.append("<text x='10' y='20'>mAP(0.85%)</text>")
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    main()
