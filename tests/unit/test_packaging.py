"""What is installed is what is in the tree."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import build_small

ROOT = Path(__file__).parents[2]
TRAIN = Path(__file__).parents[2] / "python" / "attributary_train"


def test_every_training_subpackage_is_listed():
    listed = tomllib.loads((TRAIN / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(["attributary_train", *path.parent.relative_to(TRAIN).parts])
        for path in TRAIN.rglob("__init__.py")
    }
    assert set(listed) == found


def _stage(kind, folder):
    build_small.stage(kind, folder)
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def _run(folder, code, *arguments):
    """Run code with the staged package and without the checkout's, nor NumPy and its like."""
    hidden = "numpy", "pandas", "pyarrow", "faiss", "onnxruntime", "click", "PIL"
    installed = [path for path in sys.path if path.endswith("site-packages")]
    # Without `site`: an editable install would come first, whatever the path says.
    begin = (
        f"import sys; sys.path[:0] = {[str(folder), *installed]!r}\n"
        f"for name in {hidden}: sys.modules[name] = None\n"
    )
    return subprocess.run(
        [sys.executable, "-P", "-S", "-c", begin + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_client_alone_asks_with_grpc_and_protobuf_only(tmp_path, server, tiny_corpus_dir):
    told = _stage("client", tmp_path)
    assert {re.split(r"[<>=]", need)[0] for need in told["dependencies"]} == {
        "grpcio", "protobuf", "googleapis-common-protos",
    }  # fmt: skip
    code = (
        "from attributary.client import Client, AsyncClient\nimport attributary, attributary.client.admin\n"
        "assert attributary.__file__.startswith(sys.path[0]), attributary.__file__\n"
        "with Client(sys.argv[1]) as client: print(client.attribute(sys.argv[2], top_k=1).items[0].id)"
    )
    ran = _run(tmp_path, code, server.address, str(tiny_corpus_dir / "pictures" / "3.png"))
    assert ran.stdout == "1003\n", ran.stderr


def test_small_wheels_hold_the_contract_and_everything_that_is_served(tmp_path):
    _stage("pure", tmp_path)
    package = tmp_path / "attributary"
    assert (package / "v1" / "attribution.proto").is_file() and (package / "v1" / "admin_pb2.py").is_file()
    assert (package / "gateway" / "http" / "static" / "index.html").is_file()
    assert (package / "gateway" / "http" / "openapi.json").is_file()
    assert (package / "triton" / "model_repository").is_dir()
    assert not list(package.rglob("*.so"))


def test_the_wheel_installs_the_contract():
    listed = (ROOT / "proto" / "CMakeLists.txt").read_text()
    assert "install(FILES ${_generated} ${_protos} DESTINATION attributary/v1)" in listed
