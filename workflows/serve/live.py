"""Live localization: a WebSocket that takes a camera's pictures and tells steps as they are danced.

    client  {"type": "hello", "model"?, "width", "height", "fps", "min_score"?, "delay_s"?}    once, first
            8 bytes pts in microseconds (big-endian, unsigned) and a JPEG           a picture, for a credit
            {"type": "end"}                                                         nothing follows
    server  {"type": "ready", "session", "model", "delay_s", "stride_s", "credits"}
            {"type": "credit", "n"}               n more pictures may be sent
            {"type": "segment", "state", "id", "label", "start", "end", "score"}    see :mod:`live_session`
            {"type": "dropped", "count", "reason"}     credit: sent without one; late: not behind the last one; rate:
                                                  too soon after it; damaged: no JPEG, or not of the size of `hello`
            {"type": "error", "problem", "title", "status", "detail"}               then the socket closes
            {"type": "done"}                      after `end` and the last final segments; then the socket closes

Pictures may be left out or come at any rate; those more than :data:`balletal.features.live.GAP_S` apart leave a gap
where nothing is found. `delay_s` is how far behind the pictures final segments are, without the time of computing:
as the model's bundle has it, or about as `hello` wants it, by shorter windows.

The socket closes with 1000 when all is done, else with 4000 + the problem's status: 4400 a message that is none, 4401
no valid token, 4403 a foreign page, 4404 an unknown model, 4408 silence, 4413 a message or session that is too long,
4422 a hello out of range or a model that cannot be live, 4429 too many sessions of an owner in this replica, 4500 our
fault, 4503 no model is loaded yet. Sockets that are dead are found by the server's pings.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

import numpy as np
from fastapi import APIRouter, WebSocket
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from balletal.errors import InputError
from balletal.features.live import GAP_S
from balletal.video.probe import check_picture
from workflows.serve.backend import pick
from workflows.serve.context import Context
from workflows.serve.data import new_id
from workflows.serve.limits import Limits
from workflows.serve.live_session import Event, LiveSession, Picture
from workflows.serve.problems import Problem

log = logging.getLogger(__name__)

router = APIRouter()

CREDITS = 32
"""Pictures on their way in, at the most: what a session holds of them however fast a client sends."""
SILENCE_S = 30.0
"""Seconds after which a client that sends nothing, or takes nothing, is given up."""

_PTS = 8  # bytes before a JPEG
_LONGEST_TEXT = 4096


class Hello(BaseModel):
    """The first message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["hello"]
    model: str | None = Field(None, max_length=200, description="`name` or `name@version`; the default where left out")
    width: int = Field(gt=0, description="of every picture")
    height: int = Field(gt=0)
    fps: float = Field(ge=1 / GAP_S, allow_inf_nan=False, description="pictures a second, about")
    min_score: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    delay_s: float | None = Field(None, gt=0, le=3600, allow_inf_nan=False, description="wanted of final segments")


@router.websocket("/v1/live")
async def live(socket: WebSocket) -> None:
    """Take pictures and tell steps until the client ends it, or has to be told why not."""
    here: Context = socket.app.state.context
    await socket.accept()  # before anything is refused: browsers are told a closed socket's code, not a refusal's
    line = _Line(socket)
    try:
        try:
            socket.state.owner = owner = here.access.owner(socket)
            with _place(socket, owner, here.limits):
                await _serve(line, here)
            await socket.close(1000)
        except WebSocketDisconnect:
            pass
        except Problem as problem:
            await line.refuse(problem)
        except Exception as error:
            log.error("live session %s failed", line.session, exc_info=error)
            detail = "The server failed. Its log has the reason under the session's id."
            await line.refuse(Problem(500, "internal", "Internal error", detail, session=line.session))
    except (WebSocketDisconnect, RuntimeError):  # nobody is there to be told
        log.info("live session %s: the client has gone", line.session)


@contextmanager
def _place(socket: WebSocket, owner: str, limits: Limits) -> Iterator[None]:
    """One of an owner's sessions in this replica."""
    state = socket.app.state
    if not hasattr(state, "live"):
        state.live = Counter()
    if state.live[owner] >= limits.max_live:
        raise Problem(429, "quota", "Too many live sessions", f"{limits.max_live} are open. End one.")
    state.live[owner] += 1
    try:
        yield
    finally:
        state.live[owner] -= 1
        if not state.live[owner]:
            del state.live[owner]


class _Line:
    """The socket of a session: messages one at a time, and no patience without end."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket, self.session = socket, new_id()
        self._lock = asyncio.Lock()

    async def send(self, event: Event) -> None:
        """Waits for a slow client, so that what is told does not pile up."""
        try:
            async with self._lock, asyncio.timeout(SILENCE_S):
                await self.socket.send_text(json.dumps(event, allow_nan=False))
        except TimeoutError:
            raise WebSocketDisconnect(1006) from None

    async def refuse(self, problem: Problem) -> None:
        """Say what is wrong, and close."""
        self.socket.state.problem = problem.urn
        said = {"title": problem.title, "status": problem.status, "detail": problem.detail} | problem.more
        await self.send({"type": "error", "problem": f"urn:balletal:{problem.urn}"} | said)
        await self.socket.close(4000 + problem.status, problem.title)

    async def receive(self) -> str | bytes:
        try:
            async with asyncio.timeout(SILENCE_S):  # wait_for may lose a cancellation
                message = await self.socket.receive()
        except TimeoutError:
            raise Problem(408, "silence", "Silence", f"Nothing came for {SILENCE_S:g} s.") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data: str | bytes | None = message.get("bytes")
        return message["text"] if data is None else data


async def _serve(line: _Line, here: Context) -> None:
    hello = _hello(await line.receive(), here.limits)
    if not await here.backend.ready():
        raise Problem(503, "not-ready", "Not ready", "The model is not loaded yet. Try again later.")
    models = await here.backend.models()
    model = models[-1] if hello.model is None else pick(models, hello.model)
    if model is None:
        raise Problem(404, "not-found", "Not found", "There is no such model.")

    async def features(pixels: NDArray[np.uint8], clips: int) -> NDArray[np.float32]:
        started = perf_counter()
        made = await here.backend.features(model.id, pixels, clips)
        here.metrics.stage("features", perf_counter() - started)
        return made

    try:
        session = LiveSession(
            await here.backend.localizer(model.id),
            features,
            **hello.model_dump(include={"width", "height", "fps", "min_score", "delay_s"}),
            longest_s=here.limits.max_duration_s,
        )
    except InputError as error:
        raise Problem(422, "bad-parameters", "The model cannot be live", str(error)) from None
    ready = {"session": line.session, "model": model.id, "delay_s": round(session.delay_s, 3)}
    await line.send({"type": "ready"} | ready | {"stride_s": model.spec.stride_s, "credits": CREDITS})
    await _Exchange(line, session, here.limits.max_live_frame_bytes).run()


def _hello(message: str | bytes, limits: Limits) -> Hello:
    if isinstance(message, bytes) or len(message) > _LONGEST_TEXT:
        raise Problem(400, "bad-message", "Bad message", "Expected a hello first.")
    try:
        hello = Hello.model_validate_json(message)
        check_picture("picture", hello.width, hello.height)
    except ValidationError as error:
        # Where and why, without the input: an error must not mirror what was sent.
        detail = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise Problem(422, "bad-parameters", "Parameters out of range", detail) from None
    except InputError as error:
        raise Problem(422, "bad-parameters", "Parameters out of range", str(error)) from None
    if hello.width * hello.height > limits.max_pixels or hello.fps > limits.max_fps:
        detail = f"A picture may have {limits.max_pixels} pixels, a second {limits.max_fps:g} pictures."
        raise Problem(422, "bad-parameters", "Parameters out of range", detail)
    return hello


class _Exchange:
    """Reads pictures into a queue that credits bound, and works them off; each side waits for the other."""

    def __init__(self, line: _Line, session: LiveSession, max_bytes: int) -> None:
        self.line, self.session, self.max_bytes = line, session, max_bytes
        self._queue: asyncio.Queue[Picture | None] = asyncio.Queue(CREDITS + 1)  # None: the end
        self._credits = CREDITS

    async def run(self) -> None:
        """Until the last final segment; raises what either side raises."""
        sides = [asyncio.create_task(self._read()), asyncio.create_task(self._work())]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for side in sides:
                side.cancel()
            await asyncio.wait(sides)
        for side in sides:
            if not side.cancelled() and (error := side.exception()):
                raise error

    async def _read(self) -> None:
        while True:
            message = await self.line.receive()
            if isinstance(message, str):
                if not _is_end(message):
                    raise Problem(400, "bad-message", "Bad message", "Expected a picture or an end.")
                self._queue.put_nowait(None)
                return
            if len(message) > _PTS + self.max_bytes:
                detail = f"A picture may have {self.max_bytes >> 10} KiB."
                raise Problem(413, "too-large", "Picture too large", detail, max_bytes=self.max_bytes)
            if not self._credits:
                self.session.dropped["credit"] += 1
                continue
            self._credits -= 1
            self._queue.put_nowait(Picture(int.from_bytes(message[:_PTS], "big"), message[_PTS:]))

    async def _work(self) -> None:
        while True:
            taken = [await self._queue.get()]
            while not self._queue.empty():
                taken.append(self._queue.get_nowait())
            pictures = [picture for picture in taken if picture is not None]
            async for event in self.session.push(pictures):
                await self.line.send(event)
            await self._tell_dropped()
            if self.session.over or len(pictures) < len(taken):
                break
            self._credits += len(pictures)
            await self.line.send({"type": "credit", "n": len(pictures)})
        async for event in self.session.finish():
            await self.line.send(event)
        if self.session.over:
            raise Problem(413, "too-large", "Session too long", "It has lasted as long as it may. Begin another one.")
        await self.line.send({"type": "done"})

    async def _tell_dropped(self) -> None:
        dropped, self.session.dropped = self.session.dropped, Counter()
        for reason, count in dropped.items():
            await self.line.send({"type": "dropped", "count": count, "reason": reason})


def _is_end(message: str) -> bool:
    try:
        return len(message) <= _LONGEST_TEXT and bool(json.loads(message) == {"type": "end"})
    except (ValueError, RecursionError):
        return False
