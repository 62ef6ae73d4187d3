"""May a JPEG be decoded at half size in the DCT domain? The embedding's cosine to the plain path says so.

    python benchmarks/jpeg_scaling.py IMAGE... [--json]

Every image is scaled to several sizes, written as JPEG (quality 90), decoded whole and at the smallest scale whose
short side is at least 224, resized by the preprocessing kernel and embedded by the untuned image tower (torch). The
rule of the house: the scaled path may be taken only where the cosine stays above 0.999.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simplejpeg
import torch
from common import aim, arguments, emit
from PIL import Image

from attributary import kernels
from attributary_train.towers.image import EfficientNetLite0

SIZES = (448, 512, 768, 1024)


def main() -> None:
    parser = arguments("Compare embeddings of JPEGs decoded whole and at a reduced scale.")
    parser.add_argument("images", nargs="+", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tower = EfficientNetLite0().eval()
    rows = []
    for path in options.images:
        picture = Image.open(path).convert("RGB")
        for side in SIZES:
            if min(picture.size) < side:
                continue  # an enlarged picture has no fine detail to lose
            scale = side / min(picture.size)
            scaled = picture.resize([round(x * scale) for x in picture.size], Image.Resampling.LANCZOS)
            jpeg = simplejpeg.encode_jpeg(np.asarray(scaled), quality=90)
            whole = simplejpeg.decode_jpeg(jpeg)
            reduced = simplejpeg.decode_jpeg(jpeg, min_height=224, min_width=224)
            batch = kernels.resize_crop_batch([whole, reduced], 224)
            with torch.inference_mode():
                a, b = tower(torch.from_numpy(batch)).double()
            cosine = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
            size = f"{reduced.shape[1]}x{reduced.shape[0]}"
            rows.append({"image": path.name, "short side": side, "decoded": size, "cosine": cosine})
    lowest = min((row["cosine"] for row in rows), default=0.0)
    aims = [aim("lowest cosine of the scaled path", lowest, 0.999, "", lowest >= 0.999)]
    emit("jpeg_scaling", {"quality": 90, "tower": EfficientNetLite0.name}, rows, aims, options.json)


if __name__ == "__main__":
    main()
