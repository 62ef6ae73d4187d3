"""Pictures that the page asks a generator for: one at a time, each a job that tells how far it is."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import structlog
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from attributary.errors import AttributaryError, InvalidArgumentError, NotFoundError, OverloadedError
from attributary.generator.sampler import Sampler, Wish

from ..calls import Call, Front, Kind, UnaryMethod
from .context import chunks, nothing, while_there

log = structlog.get_logger(__name__)

_WAITING: Final = 8
# Of one caller: the rest is for others.
_WAITING_OF_ONE: Final = 4
_KEPT: Final = 64
_BODY_BYTES: Final = 64 << 10
# Whoever does not ask for so long has left: their picture is not finished.
_PATIENCE_S: Final = 15.0
_FIELDS: Final[dict[str, tuple[type, ...]]] = {
    "prompt": (str,), "seed": (int,), "steps": (int,), "guidance": (int, float)
}  # fmt: skip


class _LeftError(Exception):
    """Nobody waits for this picture any more."""


@dataclass(slots=True)
class _Job:
    wish: Wish
    caller: str = ""
    done: int = 0
    png: bytes = b""
    failure: str = ""
    polled_at: float = field(default_factory=monotonic)

    @property
    def over(self) -> bool:
        return bool(self.png or self.failure)


class Making:
    """The paths below /generator."""

    def __init__(self, sampler: Sampler, front: Front) -> None:
        self._sampler = sampler
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, "generator")
        self._front = front

    def paths(self) -> list[Path]:
        """What the site adds to its own."""
        return [
            self._path("", "Generator", self._facts, lambda _: nothing()),
            self._path("/pictures", "Generate", self._begin, _body, "POST"),
            self._path("/pictures/{id}", "GenerateStatus", self._status, _id),
        ]

    def _path(
        self,
        path: str,
        name: str,
        method: UnaryMethod,
        body: Callable[[Request], Awaitable[bytes]],
        verb: str = "GET",
    ) -> Path:
        answer = self._front.answer(name, method, Kind())

        async def serve(request: Request) -> Response:
            data = await while_there(request, answer, lambda: body(request))
            kind = "image/png" if data.startswith(b"\x89PNG") else "application/json"
            return Response(data, media_type=kind)

        return Path(f"/generator{path}", serve, methods=[verb])

    async def _facts(self, _data: bytes, _call: Call) -> bytes:
        return json.dumps({"weights": self._sampler.weights}).encode()

    async def _begin(self, data: bytes, call: Call) -> bytes:
        wish = _wish(data)
        now = monotonic()
        waiting = [job for job in self._jobs.values() if not job.over and now - job.polled_at < _PATIENCE_S]
        if len(waiting) >= _WAITING:
            raise OverloadedError(f"{_WAITING} pictures are waited for already", retry_after_s=1.0)
        if sum(job.caller == call.caller.name for job in waiting) >= _WAITING_OF_ONE:
            raise OverloadedError(f"you wait for {_WAITING_OF_ONE} pictures already", retry_after_s=1.0)
        name, job = secrets.token_urlsafe(16), _Job(wish, call.caller.name)
        self._jobs[name] = job
        while len(self._jobs) > _KEPT:
            self._jobs.popitem(last=False)
        asyncio.get_running_loop().run_in_executor(self._worker, self._make, job)
        return json.dumps({"id": name, "steps": wish.steps}).encode()

    async def _status(self, data: bytes, _call: Call) -> bytes:
        """How far a picture is, as JSON; the picture itself, as PNG, once it is there."""
        job = self._jobs.get(data.decode())
        if job is None:
            raise NotFoundError("picture", data.decode())
        job.polled_at = monotonic()
        if job.png:
            return job.png
        return json.dumps({"done": job.done, "steps": job.wish.steps, "failure": job.failure}).encode()

    def _make(self, job: _Job) -> None:
        def progress(done: int, _steps: int) -> None:
            job.done = done
            if monotonic() - job.polled_at > _PATIENCE_S:
                raise _LeftError

        try:
            progress(0, job.wish.steps)
            out = io.BytesIO()
            Image.fromarray(self._sampler.picture(job.wish, progress)).save(out, "PNG")
            job.png = out.getvalue()
        except _LeftError:
            job.failure = "nobody waited for it"
        except AttributaryError as error:
            job.failure = str(error)
        except Exception:
            log.exception("defect", method="Generate")
            job.failure = "the server failed; its log says why"


def _wish(data: bytes) -> Wish:
    try:
        given: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidArgumentError("request", "is no JSON that can be read") from None
    if not isinstance(given, dict):
        raise InvalidArgumentError("request", "must be a JSON object")
    for name, value in given.items():
        kinds = _FIELDS.get(name)
        if kinds is None:
            raise InvalidArgumentError(name[:80], f"is no field of this request: {', '.join(_FIELDS)}")
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InvalidArgumentError(name, f"must be of type {kinds[-1].__name__}")
    if "prompt" not in given:
        raise InvalidArgumentError("prompt", "must be given")
    return Wish(**given)


async def _body(request: Request) -> bytes:
    return b"".join([chunk async for chunk in chunks(request, _BODY_BYTES)])


async def _id(request: Request) -> bytes:
    return str(request.path_params["id"]).encode()
