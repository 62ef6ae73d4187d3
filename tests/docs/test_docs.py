"""The documents: code that runs, commands that are understood, links that lead somewhere, a site that builds."""

import contextlib
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from attributary.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "examples" / "README.md"])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def name_of(path):
    return str(path.relative_to(ROOT))


def prose(text):
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def anchors(path):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        found.add(plain.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        place, _, anchor = target.partition("#")
        found = (page.parent / place).resolve() if place else page
        assert found.exists(), f"{name_of(page)} links to {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{name_of(page)} links to {target}"


# Decisions and history tell of what was.
PATHS = re.compile(
    r"(?<![\w./-])((?:models|benchmarks|deploy|examples|tools|packaging|tests|python|proto|kernels|model_repository)/[\w./-]*\w)(?![\w./-]*[*{<])"
)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name != "decisions" and page.stem != "history"],
    ids=name_of,
)
def test_files_that_a_page_names_are_there(page):
    named = set(PATHS.findall(page.read_text(encoding="utf-8")))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


SNIPPETS = [
    pytest.param(page, text, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.fixture(scope="module")
def changeable(start_server, tiny_bundle_dir, tmp_path_factory):
    """A server whose bundle may be changed."""
    folder = tmp_path_factory.mktemp("docs")
    bundle = shutil.copytree(tiny_bundle_dir, folder / "bundle")
    (folder / "admins").write_text("kim admin-secret\n")
    with start_server(bundle, config={"admin_tokens_file": str(folder / "admins")}) as running:
        yield running


@pytest.fixture
def workplace(tmp_path, tiny_corpus_dir, monkeypatch):
    """A folder with the files that snippets name."""
    for name in ("picture.png", "generated.png", "other.png"):
        shutil.copyfile(tiny_corpus_dir / "pictures" / "3.png", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTRIBUTARY_ADMIN_TOKEN", "admin-secret")
    return tmp_path


@pytest.mark.parametrize(("page", "text"), SNIPPETS)
def test_python_runs_and_names_everything_that_it_uses(page, text, workplace, changeable):
    if "tritonclient" in text:
        # What it does is tested beside a Triton; here, that it is Python and complete.
        pytest.importorskip("tritonclient.grpc")
    if "attributary_train" in text:
        synthetic = pytest.importorskip("tests.support.synthetic")
        synthetic.synthetic_corpus(workplace / "out" / "corpus")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text.replace("127.0.0.1:50051", changeable.address), name_of(page), "exec"), {})


def commands(page):
    """Command lines of `attributary` in a page's code, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    code = "\n".join(
        [
            *re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL),
            *re.findall(r"^    (.*)$", text, re.MULTILINE),
        ]
    )
    for line in code.replace("\\\n", " ").splitlines():
        words = re.sub(r"\s#.*$|\s*[>|&].*$", "", line.strip().removeprefix("$ "))
        words = re.sub(r"^([A-Z_]+=\S+ )+", "", words)
        program, _, rest = words.partition(" ")
        if program in ("attributary", ".venv/bin/attributary") and rest and "..." not in rest:
            yield rest


COMMANDS = [
    pytest.param(page, line, id=f"{name_of(page)}: {line[:60]}") for page in PAGES for line in commands(page)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_are_understood(page, line):
    words = [word for word in shlex.split(line) if word not in ("[OPTIONS]",)]
    context, command = click.Context(cli, **cli.context_settings), cli
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{name_of(page)}: attributary {line}"
        command = found
    with contextlib.suppress(click.exceptions.Exit):
        # Nothing is run; a wrong option or a missing one raises.
        command.make_context(command.name, words, parent=context)


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert built.returncode == 0, built.stdout + built.stderr
    told = {
        name: (tmp_path / "site" / "reference" / name / "index.html").read_text()
        for name in ("python", "attribution")
    }
    assert "attribute_batch" in told["python"] and "withheld_share" in told["attribution"]
    front = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?://", front)


def test_pictures_of_the_docs_are_small():
    for path in (ROOT / "docs" / "images").glob("page*.webp"):
        assert path.stat().st_size < 100_000
        assert np.asarray(Image.open(path)).ndim == 3


def test_every_page_is_in_the_sites_contents_and_every_decision_in_their_index():
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        assert f"- {path.relative_to(ROOT / 'docs')}\n" in contents, f"{path.name} is in no menu"
    index = (ROOT / "docs" / "decisions" / "index.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert path.name == "index.md" or f"[{title}]({path.name})" in index
