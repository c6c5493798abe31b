"""What a service answers to what it should not take: `python -m tests.benchmarks.serving_refusals [--media FOLDER]`.

A real service, of `balletal serve`; a row for each bad input, and after each whether it is ready still. With a folder
of media, what becomes of every file in it. Ends with 1 where an answer is a 5xx, or the service is not ready after one.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import httpx
import numpy as np
import typer

from tests.benchmarks.serving_common import Service, service
from tests.workflows.conftest import _write_video, make_tiny_bundle
from workflows.console import run

_MP4, _JSON = {"Content-Type": "video/mp4"}, {"Content-Type": "application/json"}
_OTHER_ORIGIN = {"Origin": "https://elsewhere.example"}

Ask = tuple[str, str, str, dict[str, Any]]
"""What is bad, method, path, and how httpx sends it."""


def bad_videos(home: Path) -> Iterator[tuple[str, bytes]]:
    """Files that say they are MP4."""
    good = _write_video(home / "good.mp4", 2.0).read_bytes()
    yield "nothing", b""
    yield "a text (FFmpeg can draw one)", b"a text is no video\n" * 100
    yield "an HLS playlist of file:///etc/passwd", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    yield "a concat script of /etc/passwd", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "the first 700 bytes of a video", good[:700]
    yield "a video whose pictures are zeros", good[: good.index(b"mdat") + 4] + bytes(2000)
    yield "random bytes", np.random.default_rng(0).bytes(100_000)
    long = _write_slides(home / "long.mp4", (64, 48), 1440, 60)
    yield f"24 h in {len(long) / 1e3:.0f} kB", long
    large = _write_slides(home / "large.mp4", (8192, 8192), 1, 1)
    yield f"8192 x 8192 in {len(large) / 1e3:.0f} kB", large


def bad_requests(model: str, video_id: str) -> Iterator[Ask]:
    """Of other kinds."""
    localize, jobs, infer = "/v1/localize", "/v1/jobs", f"/v2/models/{model}/infer"
    nan = json.dumps(_tensor([1, 1], [float("nan")])["json"])
    places = ["file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:8265/api/jobs/", "s3://another/video.mp4"]
    places += ["../../etc/passwd", "simplecache::file:///etc/passwd", "s3://"]
    for uri in places:
        yield f"`uri` {uri}", "POST", localize, {"json": {"uri": uri}}
    yield "a job of `prefix` /etc", "POST", jobs, {"json": {"inputs": [{"prefix": "/etc"}]}}
    yield "a job's `output_uri` file:///tmp", "POST", jobs, _job(video_id, output_uri="file:///tmp")
    yield "a job of no inputs", "POST", jobs, {"json": {"inputs": []}}
    yield "a job of a video that is not there", "POST", jobs, _job("0" * 24)
    yield "a job of a model that is not there", "POST", jobs, _job(video_id, models=["swan"])
    yield "`min_score` 7", "POST", localize, {"json": {"video_id": video_id, "min_score": 7}}
    yield "`start` behind `end`", "POST", localize, {"json": {"video_id": video_id, "start": 2, "end": 1}}
    yield "`start` NaN", "POST", localize, {"content": f'{{"video_id": "{video_id}", "start": NaN}}', "headers": _JSON}
    yield "JSON that is cut", "POST", localize, {"content": b'{"video_id": ', "headers": _JSON}
    yield "JSON, 100 000 deep", "POST", localize, {"content": b"[" * 100_000, "headers": _JSON}
    yield "17 MiB of JSON", "POST", localize, {"content": b" " * (17 << 20), "headers": _JSON}
    yield "65 MiB in one request", "PUT", "/v1/videos", {"content": bytes(65 << 20), "headers": _MP4}
    yield "XML", "POST", localize, {"content": b"<a/>", "headers": {"Content-Type": "text/xml"}}
    yield "features of 3 numbers", "POST", infer, _tensor([2, 3], [0.0] * 6)
    yield "features that are NaN", "POST", infer, {"content": nan, "headers": _JSON}
    yield "a shape of 10^9 features", "POST", infer, _tensor([10**9, 1024], [0.0])
    yield "a video that is not there", "GET", f"/v1/videos/{'0' * 24}", {}
    yield "`..` for a video", "GET", "/v1/videos/%2e%2e%2f%2e%2e%2fetc", {}
    yield "a range behind the end", "GET", f"/v1/videos/{video_id}/content", {"headers": {"Range": "bytes=99999999-"}}
    yield "an export nobody knows", "GET", f"/v1/jobs/{'0' * 24}/export?format=xls", {}
    yield "removal, from another origin", "DELETE", f"/v1/videos/{video_id}", {"headers": _OTHER_ORIGIN}
    yield "another host's name", "GET", "/v1/models", {"headers": {"Host": "elsewhere.example"}}
    yield "an upload of 9 TB", "POST", "/v1/uploads", {"json": {"filename": "a.mp4", "bytes": 9 * 10**12}}
    yield "an upload of -1 bytes", "POST", "/v1/uploads", {"json": {"filename": "a.mp4", "bytes": -1}}


def main(
    media: Annotated[Path | None, typer.Option(help="Folder of videos, looked through to its depths.")] = None,
) -> None:
    """Print the tables."""
    home = Path(tempfile.mkdtemp(prefix="serving-"))
    good = True
    try:
        bundle = make_tiny_bundle(home)
        with service(bundle, home / "data") as served, httpx.Client(base_url=served.url, timeout=120) as client:
            video = client.put("/v1/videos", content=_write_video(home / "v.mp4", 4.0).read_bytes(), headers=_MP4)
            asks = [(name, "PUT", "/v1/videos", {"content": sent, "headers": _MP4}) for name, sent in bad_videos(home)]
            asks += bad_requests(bundle.localizer.name, video.raise_for_status().json()["video_id"])
            print("| what is sent | to | answer | ready after |\n|---|---|---|---|")
            for name, method, path, how in asks:
                answer = client.request(method, path, **how)
                good &= _row(served, f"{name} | {method} {path.partition('?')[0].replace('0' * 24, '...')}", answer)
            files = [path for path in sorted(media.rglob("*")) if path.is_file()] if media else []
            print("\n| file | answer | ready after |\n|---|---|---|")
            for path in files:
                answer = client.put("/v1/videos", content=path.read_bytes(), headers=_MP4)
                good &= _row(served, path.name, answer)
    finally:
        shutil.rmtree(home)
    if not good:
        sys.exit(1)


def _row(served: Service, what: str, answer: httpx.Response) -> bool:
    told = answer.json() if answer.content and "json" in answer.headers["content-type"] else {}
    kind = str(told.get("type", "")).removeprefix("urn:balletal:")
    if "kind" in told:
        kind += f", {told['kind']}"
    if answer.status_code == 201:
        kind = "taken" + ("" if told["playable"] else ", with a preview") + "".join(f": {w}" for w in told["warnings"])
    ready = served.ready()
    print(f"| {what} | {answer.status_code} {kind} | {'yes' if ready else 'NO'} |", flush=True)
    return ready and answer.status_code < 500


def _job(video_id: str, **more: Any) -> dict[str, Any]:
    return {"json": {"inputs": [{"video_id": video_id}], **more}}


def _tensor(shape: list[int], data: list[float]) -> dict[str, Any]:
    return {"json": {"inputs": [{"name": "features", "shape": shape, "datatype": "FP32", "data": data}]}}


def _write_slides(path: Path, size: tuple[int, int], count: int, seconds: int) -> bytes:
    """A video of black pictures that stand for so many seconds each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1, seconds))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), "rgb24")
        for i in range(count):
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path.read_bytes()


if __name__ == "__main__":
    run(main)
