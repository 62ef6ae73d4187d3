"""Where a gateway's CPU time goes at saturation: a flame graph of its threads, Python and compiled frames.

    benchmarks/flame.py --bundle out/demo/bundle --images out/corpus/images [--json] [--save]

Embedding queries from the client in Go, 32 at a time, then pictures as PNG, 8 at a time. py-spy reads the stacks of
the threads that run, a hundred times a second, without stopping them for longer than it must. A frame's share is of
all samples, with everything that it calls. Threads that wait for a lock are partly taken for running.

`--save` also draws docs/images/flame-<kind>.svg.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from common import ROOT, arguments, emit
from embedding_queries import requests_of
from load_client import LoadClient, build
from PIL import Image
from serving import BUNDLES, first_existing, served

LEAST = 0.005  # shares below are left out
WIDTH, HEIGHT = 1000, 17  # of the picture, and of one of its rows, in pixels
LETTER = 6.2  # pixels, about
# What starts a process or a thread is in every stack, and says nothing.
BEGINNINGS = ("uv_run, core.c", "Runner.run, runners.py", "Thread.run, threading.py")
_FRAME = re.compile(r"(.*) \((.*?)(?::\d+)?\)")


@dataclass(slots=True)
class Frame:
    """A function below its callers: samples in it and in what it calls."""

    samples: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)


def tree(lines: Iterable[str]) -> Frame:
    """Merge py-spy's raw lines, "frame;frame;frame samples"."""
    root = Frame()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        root.samples += int(count)
        at, last = root, ""
        names = [named(frame) for frame in stack.split(";")]
        begun = max((place for place, name in enumerate(names) if name in BEGINNINGS), default=0)
        for name in names[begun:]:
            # Inlined parts of headers bear the name of whatever the compiler put beside them.
            if name != last and not name.endswith(".h"):
                at, last = at.calls.setdefault(name, Frame()), name
                at.samples += int(count)
    return root


def named(frame: str) -> str:
    """A frame without lines and folders: "function, file", or a library's name where it tells no functions."""
    found = _FRAME.fullmatch(frame)
    if found is None:
        return frame
    function, place = found.groups()
    # Parameters of templates and of functions say little.
    function = re.sub(r"<.*>", "", function).split("(")[0]
    return Path(place).name if function.startswith("0x") else f"{function[:60]}, {Path(place).name}"


def rows(root: Frame, share: float = LEAST) -> Iterator[dict[str, Any]]:
    """Frames from callers to called, the larger first: depth, where it begins, its share, its name."""

    def below(frame: Frame, depth: int, at: float) -> Iterator[dict[str, Any]]:
        for name, called in sorted(frame.calls.items(), key=lambda pair: -pair[1].samples):
            part = called.samples / root.samples
            if part >= share:
                yield {"depth": depth, "at": round(at, 4), "share": round(part, 4), "frame": name}
                yield from below(called, depth + 1, at)
            at += part

    yield from below(root, 0, 0.0)


def drawn(frames: list[dict[str, Any]], title: str) -> str:
    """The picture: callers above, what they call below, as wide as their share; a name appears where it has room."""
    floors = 1 + max(frame["depth"] for frame in frames)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT * (floors + 1)}" font-size="11" '
        f'font-family="sans-serif"><text x="2" y="13">{escape(title)}</text>'
    ]
    for frame in frames:
        x, width, y = frame["at"] * WIDTH, frame["share"] * WIDTH, HEIGHT * (frame["depth"] + 1)
        shade = 70 + sum(map(ord, frame["frame"])) % 18
        label = frame["frame"][: max(0, int(width / LETTER) - 1)]
        parts.append(
            f"<g><title>{escape(frame['frame'])}: {frame['share']:.1%}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.5):.1f}" height="{HEIGHT - 1}" '
            f'fill="hsl(28,75%,{shade}%)"/>'
            + (f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(label)}</text>' if len(label) > 3 else "")
            + "</g>"
        )
    return "\n".join([*parts, "</svg>", ""])


def pictures(folder: Path, count: int) -> list[bytes]:
    """Serialised requests with a picture each, PNG of 512 pixels."""
    from attributary.client import query
    from attributary.client.messages import attribute_request

    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file())[:count]:
        encoded = io.BytesIO()
        with Image.open(path) as image:
            image.convert("RGB").resize((512, 512)).save(encoded, "PNG")
        found.append(attribute_request(query(image=encoded.getvalue()), {}).SerializeToString())
    return found


def recorded(client: LoadClient, pid: int, folder: Path, concurrency: int, seconds: int) -> Frame:
    """Ask for some seconds, and read the server's stacks meanwhile."""
    client.run(concurrency=concurrency, seconds=2)
    asking = threading.Thread(target=client.run, kwargs={"concurrency": concurrency, "seconds": seconds + 2})
    asking.start()
    out = folder / "stacks"
    command = ["py-spy", "record", "--pid", str(pid), "--format", "raw", "--output", str(out), "--native"]
    command += ["--rate", "100", "--duration", str(seconds), "--nolineno", "--subprocesses"]
    told = subprocess.run(command, capture_output=True, text=True)
    asking.join()
    if told.returncode:
        raise SystemExit(f"py-spy: {told.stderr.strip()}")
    return tree(out.read_text().splitlines())


def measure(options: argparse.Namespace, folder: Path, binary: Path) -> dict[str, list[dict[str, Any]]]:
    """Frames of each kind of query."""
    found = {}
    for kind, concurrency, requests in (
        ("embedding", 32, requests_of(options.bundle)),
        ("picture", 8, pictures(options.images, 64)),
    ):
        with served(options.bundle, ["--encoder-threads", "1"]) as (port, pid):
            client = LoadClient(binary, folder, f"127.0.0.1:{port}", requests)
            found[kind] = list(rows(recorded(client, pid, folder, concurrency, options.seconds)))
    return found


def main() -> None:
    """Measure, tell, draw."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=first_existing(BUNDLES))
    parser.add_argument("--images", type=Path, default=ROOT / "out" / "corpus" / "images")
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    if options.bundle is None:
        parser.error("no bundle found; give --bundle, or run `make demo` first")
    if shutil.which("py-spy") is None:
        raise SystemExit("needs py-spy: pip install py-spy==0.4.3")
    with tempfile.TemporaryDirectory() as name:
        binary = build(Path(name))
        if binary is None:
            raise SystemExit("needs Go and its gRPC: apt-get install golang-go golang-google-grpc-dev")
        found = measure(options, Path(name), binary)
    if options.save:
        for kind, frames in found.items():
            title = f"A gateway at saturation, {kind} queries: shares of samples of its running threads"
            (ROOT / "docs" / "images" / f"flame-{kind}.svg").write_text(drawn(frames, title))
    emit("flame", {"seconds": options.seconds, "least_share": LEAST}, found, [], options.json)


if __name__ == "__main__":
    main()
