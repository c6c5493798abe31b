"""The service as the page knows it: its routes in memory, with answers that a test sets."""

import asyncio
import hashlib
import json
import math
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.middleware.base import RequestResponseEndpoint

from workflows.serve import page
from workflows.serve.data import new_id
from workflows.serve.limits import Limits
from workflows.serve.metrics import Metrics
from workflows.serve.observe import Observed
from workflows.serve.problems import Problem, install_problems

CREATED = "2026-05-01T12:00:00Z"


@dataclass
class FakeService:
    """State and answers. ``hold`` keeps jobs at the stage that it names, ``problems`` makes a route fail.

    Attributes:
        detections: of every video, by model: (label, start, end, score).
        pieces: (offset, bytes) of each piece of an upload that came in.
        room: for so many pieces; the next one waits on its way in until there is more.
    """

    detections: dict[str, list[tuple[str, float, float, float]]]
    duration: float = 4.0
    token: str | None = None
    chunk_max: int = 8 << 20
    room: float = math.inf
    hold: str | None = None
    problems: dict[str, Problem] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    of_video: dict[str, str] = field(default_factory=dict)
    previews_pending: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)
    live_frames: list[tuple[int, bytes]] = field(default_factory=list)

    def add_video(self, name: str, content: bytes) -> str:
        """A video that is here."""
        video_id = new_id()
        self.contents[video_id] = content
        self.videos[video_id] = {
            "video_id": video_id,
            "name": name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "created": CREATED,
            **{"codec": "h264", "width": 320, "height": 180, "rotation": 0, "fps": 25.0, "vfr": False},
            **{"duration": self.duration, "frames": round(25 * self.duration), "playable": True, "warnings": []},
        }
        return video_id

    def add_job(self, video_id: str, models: list[str], status: str = "queued") -> dict[str, Any]:
        """A job over a video."""
        job_id = new_id()
        self.of_video[job_id] = video_id
        self.jobs[job_id] = {
            **{"id": job_id, "status": status, "created": CREATED, "updated": CREATED, "models": models, "inputs": 1},
            "video_ids": [video_id],
            "params": {},
            "progress": {"done": 0, "total": 8, "unit": "segments"},
            "counts": {"total": 1, "ok": 0, "failed": 0, "skipped": 0},
        }
        return self.jobs[job_id]

    def segments(self, job_id: str) -> list[dict[str, Any]]:
        """What a job found."""
        return [
            {"video_id": self.of_video[job_id], "model": model, "label": label, "start": start, "end": end, "score": s}
            for model in self.jobs[job_id]["models"]
            for label, start, end, s in self.detections[model]
        ]

    def check(self, place: str) -> None:
        """Raise the problem that a test has put at a place."""
        if place in self.problems:
            raise self.problems[place]


def fake_app(state: FakeService) -> FastAPI:
    """The routes that the page uses, and the page."""
    app = FastAPI()
    install_problems(app)
    app.add_middleware(Observed, limits=Limits(), metrics=Metrics())
    app.include_router(page.router)

    @app.middleware("http")
    async def access(request: Request, call_next: RequestResponseEndpoint) -> Response:
        open_to_all = not request.url.path.startswith("/v1") or request.url.path == "/v1/session"
        if state.token is None or open_to_all or request.cookies.get("session") == state.token:
            return await call_next(request)
        body = {"type": "urn:balletal:unauthenticated", "title": "Not signed in", "status": 401, "detail": ""}
        return Response(json.dumps(body), 401, media_type="application/problem+json")

    @app.post("/v1/session", status_code=204)
    async def session(request: Request, response: Response) -> None:
        if (await request.json())["token"] != state.token:
            raise Problem(401, "unauthenticated", "Not signed in", "No such token.")
        response.set_cookie("session", state.token or "", httponly=True, samesite="strict")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        labels = sorted({one[0] for found in state.detections.values() for one in found})
        names = [model.split("@") for model in state.detections]
        offered = [{"name": name, "version": v, "digest": "0" * 64, "labels": labels} for name, v in names]
        return {"models": offered, "default": next(iter(state.detections))}

    _uploads(app, state)
    _videos(app, state)
    _jobs(app, state)
    _live(app, state)
    return app


def _uploads(app: FastAPI, state: FakeService) -> None:
    @app.post("/v1/uploads", status_code=201)
    async def begin(request: Request) -> dict[str, Any]:
        state.check("uploads")
        asked = await request.json()
        upload_id = new_id()
        state.uploads[upload_id] = {**asked, "id": upload_id, "content": b""}
        return {"id": upload_id, **asked, "offset": 0, "chunk_max": state.chunk_max, "created": CREATED}

    @app.head("/v1/uploads/{upload_id}")
    async def offset(upload_id: str, response: Response) -> None:
        response.headers["Upload-Offset"] = str(len(_found(state.uploads, upload_id)["content"]))

    @app.patch("/v1/uploads/{upload_id}", status_code=204)
    async def piece(upload_id: str, request: Request, response: Response) -> None:
        upload = _found(state.uploads, upload_id)
        body = await request.body()
        while len(state.pieces) >= state.room:
            await asyncio.sleep(0.02)
        at, here = int(request.headers["Upload-Offset"]), len(upload["content"])
        if at != here:
            raise Problem(409, "offset", "Wrong offset", "Go on from upload_offset.", upload_offset=here)
        state.pieces.append((at, len(body)))
        upload["content"] += body
        response.headers["Upload-Offset"] = str(len(upload["content"]))

    @app.post("/v1/uploads/{upload_id}/complete", status_code=201)
    async def complete(upload_id: str) -> dict[str, str]:
        state.check("complete")
        upload = _found(state.uploads, upload_id)
        assert len(upload["content"]) == upload["bytes"]
        return {"video_id": state.add_video(upload["filename"], upload["content"])}

    @app.delete("/v1/uploads/{upload_id}", status_code=204)
    async def forget(upload_id: str) -> None:
        _found(state.uploads, upload_id)
        del state.uploads[upload_id]


def _videos(app: FastAPI, state: FakeService) -> None:
    @app.get("/v1/videos")
    async def videos() -> dict[str, Any]:
        return {"videos": list(state.videos.values())[::-1], "next_page_token": None}

    @app.get("/v1/videos/{video_id}")
    async def video(video_id: str) -> dict[str, Any]:
        return _found(state.videos, video_id)

    @app.delete("/v1/videos/{video_id}", status_code=204)
    async def delete(video_id: str) -> None:
        _found(state.videos, video_id)
        del state.videos[video_id]

    @app.api_route("/v1/videos/{video_id}/content", methods=["GET", "HEAD"])
    async def content(video_id: str, request: Request) -> Response:
        data = _found(state.contents, video_id)
        if state.previews_pending:
            state.previews_pending -= 1
            raise Problem(503, "not-ready", "Preview not ready", "Try again later.")
        first, _, last = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        headers = {"Content-Range": f"bytes {start}-{end}/{len(data)}", "Accept-Ranges": "bytes"}
        return Response(data[start : end + 1], 206, media_type="video/mp4", headers=headers)


def _jobs(app: FastAPI, state: FakeService) -> None:
    @app.post("/v1/jobs", status_code=202)
    async def submit(request: Request) -> dict[str, Any]:
        state.check("jobs")
        assert request.headers["Idempotency-Key"]
        asked = await request.json()
        return state.add_job(asked["inputs"][0]["video_id"], asked["models"])

    @app.get("/v1/jobs")
    async def jobs() -> dict[str, Any]:
        return {"jobs": list(state.jobs.values())[::-1], "next_page_token": None}

    @app.get("/v1/jobs/{job_id}")
    async def job(job_id: str) -> dict[str, Any]:
        return _found(state.jobs, job_id)

    @app.get("/v1/jobs/{job_id}/events")
    async def events(job_id: str) -> Response:
        return StreamingResponse(_life(state, _found(state.jobs, job_id)), media_type="text/event-stream")

    @app.post("/v1/jobs/{job_id}/cancel", status_code=202)
    async def cancel(job_id: str) -> dict[str, Any]:
        one = _found(state.jobs, job_id)
        one["status"] = "cancelled"
        return one

    @app.delete("/v1/jobs/{job_id}", status_code=204)
    async def remove(job_id: str) -> None:
        if _found(state.jobs, job_id)["status"] not in ("succeeded", "partial", "failed", "cancelled"):
            raise Problem(409, "conflict", "Not finished", "Cancel it first.")
        del state.jobs[job_id]

    @app.get("/v1/jobs/{job_id}/results")
    async def results(job_id: str, page_token: int = 0) -> dict[str, Any]:
        _found(state.jobs, job_id)
        found, size = state.segments(job_id), 400  # pages smaller than what is asked for
        more = page_token + size < len(found)
        shown = found[page_token : page_token + size]
        return {"segments": shown, "next_page_token": str(page_token + size) if more else None}

    @app.get("/v1/jobs/{job_id}/export")
    async def export(job_id: str, format: str, model: str, video_id: str, min_score: float) -> Response:
        _found(state.jobs, job_id)
        found = [one for one in state.segments(job_id) if one["model"] == model and one["video_id"] == video_id]
        kept = [one for one in found if one["score"] >= min_score]
        headers = {"Content-Disposition": f'attachment; filename="steps.{format}"'}
        return Response(json.dumps(kept), media_type="text/plain", headers=headers)


async def _life(state: FakeService, job: dict[str, Any]) -> AsyncIterator[str]:
    """A job from its beginning to its end, as events."""

    def event(name: str, data: dict[str, Any]) -> str:
        return f"event: {name}\ndata: {json.dumps(data)}\n\n"

    for status in ("validating", "extracting", "localizing", "writing"):
        if job["status"] == "cancelled":
            break
        job["status"] = status
        yield event("status", {"status": status})
        for done in (3, 8) if status == "extracting" else ():
            job["progress"]["done"] = done
            yield event("progress", {**job["progress"], "counts": job["counts"]})
            if done == 3 and state.hold == status:
                break
        while state.hold == status and job["status"] == status:
            await asyncio.sleep(0.02)
    if job["status"] != "cancelled":
        failed = state.problems.get("job")
        job |= {"status": "failed", "error": failed.detail} if failed else {"status": "succeeded"}
    yield event("done", job)


def _live(app: FastAPI, state: FakeService) -> None:
    @app.websocket("/v1/live")
    async def live(ws: WebSocket) -> None:
        """Every tenth frame tells of a step: first provisional, final with the next."""
        await ws.accept()
        hello = await ws.receive_json()
        label = next(iter(state.detections[hello["model"]]))[0]
        await ws.send_json({"type": "ready", "session": "1", "delay_s": 1.2, "credits": 4, "stride_s": 0.16})
        told: dict[str, Any] | None = None
        while True:
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text"):
                break
            frame = message["bytes"]
            micros = struct.unpack(">Q", frame[:8])[0]
            state.live_frames.append((micros, frame[8:]))
            await ws.send_json({"type": "credit", "n": 1})
            if len(state.live_frames) % 10 == 0:
                if told:
                    await ws.send_json({**told, "state": "final"})
                end = micros / 1e6
                told = {"type": "segment", "state": "provisional", "id": len(state.live_frames), "label": label}
                told |= {"start": max(end - 0.6, 0), "end": end, "score": 0.8}
                await ws.send_json(told)
        await ws.send_json({"type": "done"})
        await ws.close()


def _found(table: dict[str, Any], key: str) -> Any:
    if key not in table:
        raise Problem(404, "not-found", "Not found", "There is no such thing.")
    return table[key]


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """An app on a free port of this machine, in a thread; gives its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = server.force_exit = True  # open streams need not end
        thread.join()
