"""Run protoc with the Python, gRPC and typing plugins: generate.py PROTO_ROOT OUT FILE."""

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc


def main(root: str, out: str, proto: str) -> int:
    """Write `*_pb2.py`, `*_pb2_grpc.py` and their stubs for `proto` below `out`; return protoc's status."""
    scripts = Path(sys.executable).parent
    plugins = [
        f"--plugin={name}={shutil.which(name, path=str(scripts)) or shutil.which(name)}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    well_known = str(files("grpc_tools") / "_proto")
    outputs = [f"--{name}_out={out}" for name in ("python", "grpc_python", "mypy", "mypy_grpc")]
    return int(protoc.main(["protoc", f"-I{root}", f"-I{well_known}", *outputs, *plugins, proto]))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
