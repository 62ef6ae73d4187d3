"""The templates of model_repository/, filled from a bundle, and what the models of a bundle are called in a repository.

`attribution`, `index` and `encoder` are aliases: names that stay, which lead to models whose names carry the bundle's
id. A new bundle is loaded beside the old one and the aliases change last, so an encoder never meets another bundle's
index.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from google.protobuf import text_format

from attributary.errors import InvalidArgumentError, UnavailableError, imported

# Names that stay and that clients may rely on.
ALIASES: Final = ("attribution", "index", "encoder")


def model_name(part: str, bundle_id: str) -> str:
    """Name of a bundle's own model; `part` is one of ALIASES."""
    return f"{part}_{bundle_id}"


def parse(name: str) -> tuple[str, str] | None:
    """Return (part, bundle id) of a bundle's own model, None for any other name."""
    part, _, bundle_id = name.partition("_")
    if part not in ALIASES or len(bundle_id) != 16 or not set(bundle_id) <= set("0123456789abcdef"):
        return None
    return part, bundle_id


def folder() -> Path:
    """Where the templates are: beside this file in an installed package, at the root of a checkout."""
    here = Path(__file__).resolve()
    for place in (here.parent / "model_repository", here.parents[3] / "model_repository"):
        if (place / "index" / "config.pbtxt").is_file():
            return place
    raise UnavailableError("the templates of model_repository/ are not installed with this package")


class Block(str):
    """A part of a config that is put in as it is; any other value is escaped, so that it stays within its quotes."""

    __slots__ = ()


def fill(name: str, values: Mapping[str, object]) -> str:
    """Return a template's text with every $name replaced; `name` is its path below model_repository/.

    Raises KeyError for a value that is missing.
    """
    text = (folder() / name).read_text(encoding="utf-8")
    return Template(text).substitute({key: _quotable(value) for key, value in values.items()})


def alias(text: str, name: str, target: str) -> str:
    """Return the config of a model that hands everything to another: the same tensors, an ensemble of one step.

    `text` is the target's own filled config. An ensemble has neither instances nor a queue, so those are left out.
    """
    pb = _model_config_pb2()
    model = parse_config(text)
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=model.max_batch_size)
    config.input.extend(model.input)
    config.output.extend(model.output)
    for tensor in config.input:
        tensor.ClearField("allow_ragged_batch")
    step = config.ensemble_scheduling.step.add(model_name=target, model_version=-1)
    step.input_map.update({tensor.name: tensor.name for tensor in model.input})
    step.output_map.update({tensor.name: tensor.name for tensor in model.output})
    for key in ("bundle", "bundle_id"):
        if key in model.parameters:
            config.parameters[key].CopyFrom(model.parameters[key])
    comment = f"# A name that stays while bundles come and go: everything goes to {target}.\n"
    return comment + text_format.MessageToString(config, as_utf8=True)


def parse_config(text: str) -> Any:
    """Return a config.pbtxt as Triton's ModelConfig; raises ValueError where it is none.

    Raises UnavailableError without the extra `triton`, whose client brings ModelConfig.
    """
    config = _model_config_pb2().ModelConfig()
    try:
        # A newer Triton's fields are no concern of ours.
        return text_format.Parse(text, config, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None


def parameters_of(path: Path) -> dict[str, str]:
    """Return the parameters of a config.pbtxt; raises InvalidArgumentError naming one that cannot be read."""
    try:
        config = parse_config(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgumentError("repository", f"{path} cannot be read: {error}") from None
    return {key: value.string_value for key, value in config.parameters.items()}


def _model_config_pb2() -> Any:
    need = "a model repository needs the package tritonclient"
    return imported("tritonclient.grpc.model_config_pb2", need, "triton")


def _quotable(value: object) -> str:
    text = str(value)
    if isinstance(value, Block):
        return text
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
