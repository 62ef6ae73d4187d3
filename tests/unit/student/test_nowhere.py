"""What no generator made is put far from every item, and what one made is not."""

from dataclasses import replace

import pytest
import torch

from attributary_train.student.distil import distil
from attributary_train.student.nowhere import foreign_pictures, nowhere

from .test_compact import SETTINGS, compact, lessons


def test_nowhere_is_where_no_item_is():
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1))).Q
    items = torch.nn.functional.normalize(torch.randn(50, 11) @ basis[:11], dim=1)
    away = nowhere(items)
    assert away.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert (items @ away).abs().max() < 1e-5


@pytest.mark.parametrize("count", [1, 3, 16])
def test_foreign_pictures_are_pictures_and_follow_the_seed(count):
    own = torch.randint(0, 256, (6, 32, 32, 3)).to(torch.uint8)

    def made(seed):
        torch.manual_seed(seed)
        return foreign_pictures(own, count)

    pictures = made(3)
    assert pictures.shape == (count, 32, 32, 3) and pictures.dtype == torch.uint8
    assert torch.equal(pictures, made(3)) and not torch.equal(pictures, made(4))
    # None is blank: a blank picture would teach that white paper is foreign.
    assert (pictures.float().flatten(1).std(1) > 1.0).all()


def discs(count):
    """A coloured disc each on white paper, as unlike noise as an emoji is."""
    rng = torch.Generator().manual_seed(8)
    place = torch.arange(32.0)
    centre, radius = (
        torch.randint(10, 22, (2, count, 1, 1), generator=rng),
        torch.randint(4, 10, (count, 1, 1), generator=rng),
    )
    inside = (place[None, None] - centre[0]).square() + (
        place[None, :, None] - centre[1]
    ).square() < radius.square()
    colour = torch.randint(0, 200, (count, 1, 1, 3), generator=rng)
    return torch.where(inside[..., None], colour, 255).to(torch.uint8)


def test_the_compact_student_learns_to_put_foreign_pictures_nowhere(tmp_path):
    some = lessons(pictures=48)
    # Every disc is of one item, so that a few epochs are enough.
    some = replace(some, pixels=discs(48), target=some.items[:1].expand(48, -1))
    settings = replace(SETTINGS, epochs=15, foreign=8, learning_rate=5e-3)
    student = distil(compact(), some, settings, tmp_path / "shown")
    never = distil(compact(), some, replace(settings, foreign=0), tmp_path / "never")
    torch.manual_seed(9)
    foreign = foreign_pictures(some.pixels, 40)
    away = nowhere(some.items)
    with torch.inference_mode():
        shown, own, unshown = (
            student.image(foreign) @ away,
            student.image(some.pixels) @ away,
            never.image(foreign) @ away,
        )
    assert shown.mean() > own.mean() + 0.3
    assert shown.mean() > unshown.mean() + 0.3
