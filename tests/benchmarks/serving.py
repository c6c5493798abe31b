"""What the service adds, and what it bears: `python -m tests.benchmarks.serving [--only PART] [--rounds 3]`.

Prints Markdown tables. A tiny model on features of 32 x 32 pixels: what is measured is the service, not the network;
with `--bundle`, a model of yours.

- `latency`: the same features, localized by the bare model in this process and by a request to it over HTTP.
- `batching`: requests a second of 16 clients, one request a pass of the localizer and up to 16.
- `uploads`: clients that each send a video in two pieces at the same time, until it was looked at.
- `live`: sessions at the same time, each of a camera with 4 pictures a second.

The service is the one of `balletal serve`, in a process group of its own on this machine, with the limits of a token
raised; the memory of its processes is told before and after each part.
"""

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import httpx
import numpy as np
import typer
from websockets.asyncio.client import connect

from balletal.features.store import VideoFeatures
from balletal.tal.localizer import Localizer
from tests.benchmarks.extraction_common import load, machine
from tests.benchmarks.serving_common import service
from tests.workflows.conftest import TinyBundle, _write_video, make_tiny_bundle
from workflows.console import run, say

PARTS = ["latency", "batching", "uploads", "live"]
REQUESTS, CLIENTS, BATCHING_S, UPLOADS, SESSIONS, LIVE_S = 300, 16, 15.0, 200, 50, 30.0
FEATURES, LIVE_FPS, WIDTH, HEIGHT = 30, 4, 64, 48
_PART_S = 120.0


def main(
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of the requests, uploads, sessions and seconds.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Parts: " + ", ".join(PARTS))] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often, by the same service: does its memory grow?")] = 1,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle.", show_default="a tiny one")] = None,
) -> None:
    """Print the tables of all parts."""
    print(f"{machine('cpu')}; {load()}\n", flush=True)
    home = Path(tempfile.mkdtemp(prefix="serving-"))
    try:
        served_bundle = TinyBundle(str(bundle), "", Localizer.load(str(bundle))) if bundle else make_tiny_bundle(home)
        localizer = served_bundle.localizer
        rows = np.random.default_rng(0).normal(size=(FEATURES, localizer.spec.dim)).astype(np.float32)
        parts = {"latency": latency, "batching": batching, "uploads": uploads, "live": live}
        with service(served_bundle, home / "data") as served:
            say(f"ready: {served.memory()}")
            for name in (only or PARTS) * rounds:
                before = served.memory()
                parts[name](served.url, localizer, rows, home, share)
                time.sleep(2)
                print(f"\nMiB before: {before}; after: {served.memory()}\n", flush=True)
        if not only or "batching" in only:
            with service(served_bundle, home / "data", batch=1) as served:
                throughput("one request a pass", served.url, localizer, rows, share)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def latency(url: str, localizer: Localizer, rows: np.ndarray, home: Path, share: float) -> None:
    """One client, one request after the other."""
    spec = localizer.spec
    start_s = np.arange(len(rows)) * spec.stride_s
    video = VideoFeatures("v", start_s, start_s + spec.window / spec.fps, rows)
    body = _inference(rows)
    with httpx.Client(base_url=url, timeout=60) as client:

        def asked() -> None:
            client.post(f"/v2/models/{localizer.name}/infer", content=body, headers=_JSON).raise_for_status()

        ways = {"the bare model": lambda: localizer.localize(video), "a request": asked}
        print("| localizing 30 features | n | p50 ms | p99 ms |\n|---|---|---|---|")
        found = {}
        for name, work in ways.items():
            for _ in range(5):
                work()
            found[name] = [_timed(work) for _ in range(max(10, round(REQUESTS * share)))]
            print(f"| {name} | {len(found[name])} | {_percentiles(found[name])} |", flush=True)
    bare, service = found.values()
    added = [statistics.quantiles(service, n=100)[k] - statistics.quantiles(bare, n=100)[k] for k in (49, 98)]
    print(f"| added | | {1e3 * added[0]:.1f} | {1e3 * added[1]:.1f} |")


def batching(url: str, localizer: Localizer, rows: np.ndarray, home: Path, share: float) -> None:
    """The default; the other way wants another service."""
    throughput("up to 16 requests a pass", url, localizer, rows, share)


def throughput(name: str, url: str, localizer: Localizer, rows: np.ndarray, share: float) -> None:
    """Clients that each ask again as soon as they are answered."""
    body, seconds = _inference(rows), max(2.0, BATCHING_S * share)
    path = f"/v2/models/{localizer.name}/infer"

    async def one(client: httpx.AsyncClient, until: float) -> list[float]:
        found = []
        while time.monotonic() < until:
            started = time.monotonic()
            (await client.post(path, content=body, headers=_JSON)).raise_for_status()
            found.append(time.monotonic() - started)
        return found

    async def work() -> list[float]:
        async with _client(url) as client:
            until = time.monotonic() + seconds
            answered = await asyncio.gather(*(one(client, until) for _ in range(CLIENTS)))
            return [seconds for some in answered for seconds in some]

    found = _bounded(work)
    print(f"| {CLIENTS} clients | requests a second | p50 ms | p99 ms |\n|---|---|---|---|")
    print(f"| {name} | {len(found) / seconds:.1f} | {_percentiles(found)} |", flush=True)


def uploads(url: str, localizer: Localizer, rows: np.ndarray, home: Path, share: float) -> None:
    """All at once; a client that is told to wait does."""
    content = _write_video(home / "class.mp4", 4.0).read_bytes()
    half, waited = len(content) // 2, 0

    async def asked(client: httpx.AsyncClient, method: str, path: str, **how: Any) -> httpx.Response:
        nonlocal waited
        while (answer := await client.request(method, path, **how)).status_code == 503:
            waited += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
        answer.raise_for_status()
        return answer

    async def one(client: httpx.AsyncClient) -> float:
        started = time.monotonic()
        new = {"filename": "class.mp4", "bytes": len(content)}
        path = (await asked(client, "POST", "/v1/uploads", json=new)).headers["location"]
        for offset, piece in ((0, content[:half]), (half, content[half:])):
            await asked(client, "PATCH", path, content=piece, headers=_BYTES | {"Upload-Offset": str(offset)})
        video = (await asked(client, "POST", f"{path}/complete")).json()
        assert video["frames"] == 100
        return time.monotonic() - started

    async def work() -> list[float]:
        async with _client(url) as client:
            return list(await asyncio.gather(*(one(client) for _ in range(max(2, round(UPLOADS * share))))))

    started = time.monotonic()
    found = _bounded(work)
    print("| uploads at once | all done, s | p50 ms | p99 ms | told to wait |\n|---|---|---|---|---|")
    print(f"| {len(found)} | {time.monotonic() - started:.1f} | {_percentiles(found)} | {waited} |", flush=True)


def live(url: str, localizer: Localizer, rows: np.ndarray, home: Path, share: float) -> None:
    """Cameras that leave out a picture when they have no credit."""
    seconds, sessions = max(4.0, LIVE_S * share), max(2, round(SESSIONS * share))
    jpegs = [cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 9 * n, np.uint8))[1].tobytes() for n in range(28)]

    async def one() -> tuple[int, int, int, float]:
        sent = left_out = segments = 0
        async with connect(f"{url.replace('http', 'ws')}/v1/live", max_queue=None) as socket:
            hello = {"type": "hello", "width": WIDTH, "height": HEIGHT, "fps": LIVE_FPS, "delay_s": 5}
            await socket.send(json.dumps(hello))
            ready = json.loads(await socket.recv())
            credits, over = ready["credits"], asyncio.get_running_loop().create_future()

            async def hear() -> None:
                nonlocal credits, segments
                async for message in socket:
                    said = json.loads(message)
                    assert said["type"] != "error", said
                    credits += said["n"] if said["type"] == "credit" else 0
                    segments += said.get("state") == "final"
                over.set_result(time.monotonic())

            listening, began = asyncio.create_task(hear()), time.monotonic()
            for n in range(round(seconds * LIVE_FPS)):
                await asyncio.sleep(max(0.0, began + n / LIVE_FPS - time.monotonic()))
                if not credits:
                    left_out += 1
                    continue
                credits, sent = credits - 1, sent + 1
                await socket.send(round(n / LIVE_FPS * 1e6).to_bytes(8, "big") + jpegs[n % len(jpegs)])
            await socket.send('{"type": "end"}')
            ended = time.monotonic()
            await listening
            return sent, left_out, segments, await over - ended

    async def work() -> list[tuple[int, int, int, float]]:
        return list(await asyncio.gather(*(one() for _ in range(sessions))))

    found = _bounded(work)
    sent, left_out, segments, behind = (list(column) for column in zip(*found, strict=True))
    print("| sessions | s | pictures sent | left out | final segments | worked off behind the end, p50 s | max s |")
    print("|---|---|---|---|---|---|---|")
    told = f"{sessions} | {seconds:.0f} | {sum(sent)} | {sum(left_out)} | {sum(segments)}"
    print(f"| {told} | {statistics.median(behind):.1f} | {max(behind):.1f} |", flush=True)


_JSON = {"Content-Type": "application/json"}
_BYTES = {"Content-Type": "application/octet-stream"}


def _inference(rows: np.ndarray) -> bytes:
    tensor = {"name": "features", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=_PART_S, limits=httpx.Limits(max_connections=None))


def _bounded(work: Callable[[], Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(_PART_S):
            return await work()

    return asyncio.run(bounded())


def _timed(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _percentiles(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"{1e3 * cuts[49]:.1f} | {1e3 * cuts[98]:.1f}"


if __name__ == "__main__":
    run(main)
