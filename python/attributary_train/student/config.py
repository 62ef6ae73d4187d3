"""One student as a few settings: what it sees, what it is asked to reproduce, how it is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_type_hints

from attributary_train.errors import StudentError

from .sight import ItemPictures

HeadKind = Literal["paper", "tokens", "kernel", "generator"]
Loss = Literal["rank_bce", "listwise", "listmle"]
Link = Literal["exponential", "power"]
Target = Literal["mass", "rank"]
Placed = Literal["levels", "caption"]


@dataclass(frozen=True)
class StudentConfig:
    """Settings of a head on the untuned towers' features.

    head: "paper" (joined raw features, one MLP) or "tokens" (token states, whitened as EK-FAC does),
    "kernel" (started from the teacher's own kernel of prompts, `kernel_head.py`); "generator" has another tower
    (`generator_tower.py`).
    separate: items have a head of their own. free_items: item vectors are moved away from their head's by gradient.
    image: pictures are looked at; False leaves the prompt alone.
    loss: see `losses.py`. target: what a listwise loss calls the truth: "mass" is the standardised score above 0 to
    the power `sharpness`, "rank" falls by e every `sharpness` ranks. link: how a cosine becomes a share of it.
    prompt_dropout: share of training queries whose prompt is hidden. members: heads from as many seeds, side by side.
    outside: share of pairs whose item is replaced by a random one (rank_bce). item_pace: learning rate of item vectors,
    times that of weights. batch: pairs (rank_bce) or queries.
    Of "generator" alone: retrained: weight of the correlation with losses of retrained models, where they are given.
    placed: an item's vector is the mean over the captions that the generator learnt and none ("levels"), or that of its
    picture with its caption in the corpus, as an item that is added to a bundle arrives ("caption"). foreign: pictures
    of a step that no generator made, taught to be near no item.
    """

    name: str
    head: HeadKind = "kernel"
    loss: Loss = "listwise"
    target: Target = "mass"
    link: Link = "power"
    sharpness: float = 1.0
    dim: int = 256
    hidden: int = 384
    dropout: float = 0.1
    separate: bool = False
    free_items: bool = True
    image: bool = True
    items: ItemPictures = "decoded"
    prompt_dropout: float = 0.3
    whitening: float = 0.5
    members: int = 1
    epochs: int = 30
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    outside: float = 0.1
    item_pace: float = 0.1
    retrained: float = 1.0
    placed: Placed = "levels"
    foreign: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            choices = get_args(kind)
            if choices and getattr(self, name) not in choices:
                raise StudentError(name, f"{getattr(self, name)!r}; there are {', '.join(choices)}")
        if self.epochs < 0:
            raise StudentError("epochs", f"{self.epochs}; must not be negative")
        StudentError.if_below(1, dim=self.dim, hidden=self.hidden, members=self.members, batch=self.batch)
        for name in ("dropout", "prompt_dropout", "outside"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise StudentError(name, f"{getattr(self, name)}; must be at least 0 and below 1")
        for name in ("retrained", "foreign"):
            if not getattr(self, name) >= 0:
                raise StudentError(name, f"{getattr(self, name)}; must not be negative")
        for name in ("sharpness", "whitening", "learning_rate"):
            if not getattr(self, name) > 0:
                raise StudentError(name, f"{getattr(self, name)}; must be above 0")

    @property
    def by_encoder(self) -> bool:
        """Whether item vectors are what the query encoder makes of picture and caption: new items can join them."""
        return self.head == "generator" and self.placed == "caption" and not self.free_items

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> StudentConfig:
        """Raises `StudentError` naming a setting that is unknown."""
        # Students of before have it; none of those that are served looked at a gradient in its head.
        values = {name: value for name, value in values.items() if (name, value) != ("gradient", 0)}
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise StudentError(sorted(unknown)[0], "is not a setting of a student")
        return cls(**values)


# The paper's: Wang et al., "Fast Data Attribution for Text-to-Image Models", NeurIPS 2025, section 3 and appendix.
_PAPER = StudentConfig(
    "paper",
    head="paper",
    loss="rank_bce",
    dim=768,
    hidden=768,
    free_items=False,
    prompt_dropout=0.0,
    epochs=10,
    batch=4096,
)
_KERNEL = StudentConfig("kernel", dropout=0.4, item_pace=0.3)
CONFIGS: dict[str, StudentConfig] = {
    config.name: config
    for config in (
        _PAPER,
        dataclasses.replace(_PAPER, name="paper-served-items", items="served"),
        dataclasses.replace(_PAPER, name="paper-listwise", loss="listwise", batch=128, epochs=30),
        dataclasses.replace(_KERNEL, name="tokens", head="tokens", dropout=0.1),
        dataclasses.replace(_KERNEL, name="kernel-untrained", epochs=0),
        _KERNEL,
        dataclasses.replace(_KERNEL, name="kernel-exponential", link="exponential"),
        dataclasses.replace(_KERNEL, name="kernel-flat", sharpness=0.5),
        dataclasses.replace(_KERNEL, name="kernel-sharp", sharpness=1.5),
        dataclasses.replace(_KERNEL, name="kernel-dropout-0.1", dropout=0.1),
        dataclasses.replace(_KERNEL, name="kernel-held", item_pace=0.1),
        dataclasses.replace(_KERNEL, name="kernel-512", dim=512),
        dataclasses.replace(_KERNEL, name="kernel-served-items", items="served"),
        dataclasses.replace(_KERNEL, name="kernel-rank", target="rank", sharpness=9.0),
        dataclasses.replace(_KERNEL, name="kernel-listmle", loss="listmle"),
        dataclasses.replace(_KERNEL, name="kernel-no-refinement", free_items=False),
        dataclasses.replace(_KERNEL, name="kernel-no-picture", image=False, prompt_dropout=0.0),
        dataclasses.replace(_KERNEL, name="kernel-ensemble", members=4),
    )
}
_GENERATOR = StudentConfig(
    "generator",
    head="generator",
    link="exponential",
    hidden=512,
    dropout=0.3,
    items="served",
    epochs=15,
    weight_decay=0.05,
    item_pace=0.3,
    foreign=32,
)
# Not in `CONFIGS`, which a sweep compares on labels of candidates: these learn whole lists.
GENERATOR_CONFIGS: dict[str, StudentConfig] = {
    config.name: config
    for config in (
        _GENERATOR,
        dataclasses.replace(_GENERATOR, name="generator-placed", placed="caption", free_items=False),
        dataclasses.replace(
            _GENERATOR, name="generator-untrained", placed="caption", free_items=False, epochs=0
        ),
        dataclasses.replace(_GENERATOR, name="generator-power", link="power"),
    )
}


def config_named(name: str) -> StudentConfig:
    """Raises `StudentError` listing the names there are."""
    known = CONFIGS | GENERATOR_CONFIGS
    if name not in known:
        raise StudentError("config", f"{name!r} is unknown; there are {', '.join(known)}")
    return known[name]
