"""Build the wheels that need no compiler: build_small.py client|pure|demo [OUT], default dist/.

client  `attributary-client`: asking a server, with grpcio and protobuf and nothing else. The same modules under the
        same names as in `attributary`, which holds them already: install one of the two.
pure    `attributary` for platforms without a wheel and without a compiler: NumPy and Pillow in place of the kernels.
        The same answers, slower (`attributary doctor` says how much).
demo    `attributary-demo`: the committed student and pictures of its generator, for `attributary demo`. No code.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from build_compiled import pip_wheel

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "python" / "attributary"
# What `attributary.client` imports, and no more; tests/unit/test_packaging.py holds it to that.
CLIENT = (
    "__init__.py", "py.typed", "errors.py", "files.py", "proxy.py", "notebook.py", "attribution/__init__.py",
    "attribution/types.py", "client", "v1",
)  # fmt: skip
DEMO = ("student", "demo-queries")
CLIENT_NEEDS = ("googleapis-common-protos>=1.70", "grpcio>=1.80,<2", "protobuf>=6.33")


def main() -> int:
    """Build one of them."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind not in ("client", "pure", "demo"):
        sys.stderr.write(__doc__ or "")
        return 2
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "dist").resolve()
    with tempfile.TemporaryDirectory() as folder:
        stage(kind, Path(folder))
        pip_wheel(Path(folder), out)
    return 0


def stage(kind: str, folder: Path) -> None:
    """Put the sources of a wheel, and what builds it, into a folder."""
    for name in ("LICENSE", "NOTICE", "README.md"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "pyproject.toml").write_text(_project(kind))
    if kind == "demo":
        for name in DEMO:
            shutil.copytree(ROOT / "models" / name, folder / "attributary_demo" / name)
        (folder / "attributary_demo" / "__init__.py").write_text(
            '"""What `attributary demo` shows; no code."""\n'
        )
        return
    package = folder / "attributary"
    for name in CLIENT if kind == "client" else (".",):
        source, target = SOURCE / name, package / name
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"), dirs_exist_ok=True
            )
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if kind == "pure":
        shutil.copytree(ROOT / "model_repository", package / "triton" / "model_repository")
    for proto in (ROOT / "proto" / "attributary" / "v1").glob("*.proto"):
        shutil.copyfile(proto, package / "v1" / proto.name)
    _generate(folder)


def _generate(folder: Path) -> None:
    for name in ("attribution", "admin"):
        subprocess.run(
            [sys.executable, str(ROOT / "proto" / "generate.py"), str(ROOT / "proto"), str(folder),
             f"attributary/v1/{name}.proto"],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def _project(kind: str) -> str:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = {"client": list(CLIENT_NEEDS), "pure": told["dependencies"], "demo": []}[kind]
    name = {"client": "attributary-client", "pure": "attributary", "demo": "attributary-demo"}[kind]
    lines = [
        "[build-system]", 'requires = ["setuptools>=77"]', 'build-backend = "setuptools.build_meta"', "[project]",
        f'name = "{name}"', f'version = "{told["version"]}"',
        f'description = "{told["description"]}"', 'readme = "README.md"', f'license = "{told["license"]}"',
        f"requires-python = {_quoted(told['requires-python'])}", f"dependencies = [{', '.join(map(_quoted, needs))}]",
    ]  # fmt: skip
    if kind == "pure":
        lines += ["[project.scripts]", *(f"{name} = {_quoted(to)}" for name, to in told["scripts"].items())]
        lines += ["[project.optional-dependencies]"]
        lines += [
            f"{name} = [{', '.join(map(_quoted, of))}]"
            for name, of in told["optional-dependencies"].items()
            if name not in ("dev", "docs")
        ]
    lines += [
        "[tool.setuptools.packages.find]",
        'include = ["attributary*"]',
        "[tool.setuptools.package-data]",
    ]
    lines += ['"*" = ["**/*"]']
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'


if __name__ == "__main__":
    raise SystemExit(main())
