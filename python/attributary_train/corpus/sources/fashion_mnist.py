"""Fashion-MNIST: small photographs of garments by one house, kept as they are, each with its class as the caption."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.names import ConceptNames, slug
from attributary_train.corpus.pins import FASHION_MNIST
from attributary_train.corpus.sources.base import Drawing, SourceReport
from attributary_train.errors import CorpusError

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)  # fmt: skip
IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
SIDE = 28


@dataclass(frozen=True, slots=True)
class FashionMnist:
    """The package's 60,000 training pictures in their order, which mixes the classes: any first part is a sample."""

    name: str = "fashion-mnist"
    held_out_default: bool = True
    uses_names: bool = False

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield the photographs, grey ones as RGB; raises `CorpusError` for a package that is not as expected."""
        root, version = cache.debian(FASHION_MNIST)
        report.packages[FASHION_MNIST.name] = version
        pictures, classes = fashion_pictures(root)
        for at, (pixels, number) in enumerate(zip(pictures, classes, strict=True)):
            stream = io.BytesIO()
            Image.fromarray(pixels).convert("RGB").save(stream, "PNG")
            yield Drawing(
                key=f"fashion-mnist/train-{at:05d}",
                uri=f"{FASHION_MNIST.name}@{version}/{IMAGES}#{at:05d}.png",
                caption=CLASSES[number],
                keywords=(),
                concept_id=slug(CLASSES[number]),
                creator="Zalando SE",
                creator_url="https://github.com/zalandoresearch/fashion-mnist",
                style_set="fashion-mnist",
                family="fashion-mnist",
                licence_spdx="MIT",
                licence_url="https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE",
                payload=stream.getvalue(),
                own=True,
            )


def fashion_pictures(root: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Pictures, uint8 [N, 28, 28], and their classes, uint8 [N], of the unpacked package.

    Raises `CorpusError` naming the file that is missing, damaged or of another shape.
    """
    pictures = _idx(root, IMAGES)
    classes = _idx(root, LABELS)
    if pictures.shape != (len(classes), SIDE, SIDE) or (len(classes) and classes.max() >= len(CLASSES)):
        raise CorpusError(
            str(root), f"holds pictures {pictures.shape} and classes {classes.shape}, not as expected"
        )
    return pictures, classes


def _idx(root: Path, name: str) -> npt.NDArray[np.uint8]:
    """An array of bytes in LeCun's format: two zeros, the type, the number of axes, their lengths, the values."""
    found = sorted(root.rglob(name))
    if len(found) != 1:
        raise CorpusError(str(root), f"holds {len(found)} files {name}")
    try:
        with gzip.open(found[0]) as stream:
            data = stream.read()
        axes = data[3]
        shape = np.frombuffer(data, ">u4", axes, 4).astype(np.int64)
        if data[:3] != b"\x00\x00\x08":
            raise ValueError("its first bytes are not those of an array of bytes")
        return np.frombuffer(data, np.uint8, int(shape.prod()), 4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise CorpusError(str(found[0]), f"not readable: {error}") from error
