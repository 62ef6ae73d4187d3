"""What counts as a near duplicate."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from attributary_train.corpus import near_dup
from tests.support.synthetic import draw


def labels(images, creators=None, **thresholds):
    vectors = np.stack([near_dup.embed(np.asarray(image)) for image in images]).astype(np.float16)
    codes = np.zeros(len(images), np.int64) if creators is None else np.array(creators)
    return near_dup.group(vectors, codes, near_dup.Thresholds(**thresholds)).labels.tolist()


def face(mouth: int, colour: str = "gold") -> Image.Image:
    """A round face whose mouth is a smile (0), a frown (1) or open (2)."""
    from PIL import ImageDraw

    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((8, 8, 248, 248), fill=colour, outline="black", width=8)
    for x in (88, 168):
        pen.ellipse((x - 12, 84, x + 12, 108), fill="black")
    if mouth == 2:
        pen.ellipse((98, 150, 158, 210), fill="black")
    else:
        box = (78, 120, 178, 200) if mouth == 0 else (78, 160, 178, 240)
        pen.arc(box, *((20, 160) if mouth == 0 else (200, 340)), fill="black", width=10)
    return image


def test_embedding_is_a_unit_vector():
    vector = near_dup.embed(np.asarray(face(0)))
    assert vector.shape == (near_dup.DIM,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_recompressed_and_softened_copies_group(encode):
    import io

    original = draw("star", "red", "Ada Sample")
    jpeg = Image.open(io.BytesIO(encode(original, "JPEG", quality=60))).convert("RGB")
    small = original.resize((128, 128)).resize((256, 256))
    soft = original.filter(ImageFilter.GaussianBlur(1))
    assert labels([original, jpeg, small, soft], creators=[0, 1, 2, 3]) == [0, 0, 0, 0]


def test_recoloured_siblings_group_for_one_creator_only():
    red, blue = draw("star", "red", "Ada Sample"), draw("star", "blue", "Ada Sample")
    assert labels([red, blue], creators=[0, 0]) == [0, 0]
    filled = [Image.new("RGB", (256, 256), colour) for colour in ("white", "white")]
    for image, colour in zip(filled, ("red", "blue"), strict=True):
        image.paste(colour, (16, 16, 240, 240))
    assert labels(filled, creators=[0, 1]) == [0, 1]
    assert labels([filled[0], filled[0]], creators=[0, 1]) == [0, 0]


def test_one_outline_with_another_mouth_does_not_group():
    # The cosine alone would join them: the outline outweighs the mouth.
    faces = [face(0), face(1), face(2)]
    vectors = [near_dup.embed(np.asarray(image)) for image in faces]
    assert min(float(vectors[0] @ other) for other in vectors[1:]) > near_dup.Thresholds().candidate_cosine
    assert labels(faces) == [0, 1, 2]


def test_one_concept_by_other_hands_does_not_group():
    hands = ["Ada Sample", "Ben Probe", "Cleo Token", "Dag Pattern"]
    assert labels([draw("star", "red", hand) for hand in hands], creators=range(4)) == [0, 1, 2, 3]


def test_groups_are_numbered_by_first_appearance_and_joined_through_others():
    vectors = np.zeros((5, near_dup.DIM), np.float16)
    vectors[[0, 2, 4], 0] = 1
    vectors[[1, 3], 900] = 1
    groups = near_dup.group(vectors, np.zeros(5, np.int64))
    assert groups.labels.tolist() == [0, 1, 0, 1, 0]
    assert (groups.pairs, groups.shared) == (4, 2)


def test_inverted_file_finds_the_same_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.random((150, near_dup.DIM), np.float32)
    vectors = np.concatenate([base, base[:50] + 1e-3])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = np.zeros(len(vectors), np.int64)
    whole = near_dup.group(vectors.astype(np.float16), codes)
    monkeypatch.setattr(near_dup, "EXACT_LIMIT", 10)
    parts = near_dup.group(vectors.astype(np.float16), codes)
    assert whole.shared == 50
    assert parts.labels.tolist() == whole.labels.tolist()


def test_no_items_and_one_item():
    assert labels([face(0)]) == [0]
    empty = near_dup.group(np.zeros((0, near_dup.DIM), np.float16), np.zeros(0, np.int64))
    assert len(empty.labels) == 0
    assert empty.shared == 0
