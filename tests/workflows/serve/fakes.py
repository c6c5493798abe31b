"""A backend that answers at once, and the videos and problems that the tests of the routes share."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.segments import segment_table
from balletal.tal.localizer import Localizer
from balletal.video.probe import VideoInfo
from workflows.serve.backend import WHOLE, Answer, JobRunner, Model, Part

MP4 = {"Content-Type": "video/mp4"}

SPEC = FeatureSpec("i3d-rgb", "w", ("rgb",), fps=8, window=8, stride=8, size=32, crop="center", mode="windowed", dim=4)
MODELS = (
    Model("fake", "1", "1" * 64, ("Pirouette", "Courus"), SPEC),
    Model("fake", "2", "2" * 64, ("Pirouette", "Courus"), SPEC),
    Model("other", "1", "3" * 64, ("Pirouette",), SPEC.replace(dim=6)),
)


class FakeBackend:
    """Answers two steps at fixed shares of the video, and remembers what it was asked."""

    def __init__(self) -> None:
        self.runner: JobRunner | None = None
        self.is_ready = True
        self.fails: Exception | None = None
        self.asked: list[dict[str, Any]] = []

    async def ready(self) -> bool:
        return self.is_ready

    async def models(self) -> Sequence[Model]:
        return MODELS

    async def localize(self, model: str, video: str | Path, info: VideoInfo, part: Part = WHOLE) -> Answer:
        assert Path(video).stat().st_size > 0
        self.asked.append({"model": model, "video": video, "part": part})
        if self.fails:
            raise self.fails
        d = info.duration
        found = segment_table("v", [0.1 * d, 0.5 * d], [0.3 * d, d], ["Pirouette", "Courus"], score=[0.9, 0.4])
        return Answer(found, seconds={"features": 0.02, "localize": 0.001})

    async def infer(
        self, model: str, features: NDArray[np.float32], start_s: NDArray[np.float64], *, min_score: float = 0.0
    ) -> pd.DataFrame:
        self.asked.append({"model": model, "features": features, "start_s": start_s, "min_score": min_score})
        if not np.isfinite(features).all():
            raise InputError("features of x, row 0", expected="finite values", found="NaN or infinity")
        return segment_table("v", [0.0], [float(features.sum())], ["Pirouette"], score=[0.5])

    async def features(self, model: str, pixels: NDArray[np.uint8], clips: int | None = None) -> NDArray[np.float32]:
        raise NotImplementedError  # live sessions alone ask, and have fakes of their own

    async def localizer(self, model: str) -> Localizer:
        raise NotImplementedError  # live sessions alone ask, and have fakes of their own


def video(seconds: float, codec: str = "libx264", fps: int = 25, form: str = "mp4") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(round(seconds * fps)):
            picture = np.full((48, 64, 3), i % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def problem(response: Any, status: int, urn: str) -> dict[str, Any]:
    """The body of an answer that must be such a problem, and tell nothing of the inside."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:balletal:{urn}"
    assert body["status"] == status
    assert response.headers.get("x-request-id", body["request_id"]) == body["request_id"]
    assert len(body["request_id"]) == 32
    assert not any(word in response.text for word in ("/tmp", "Traceback", "content.", "uploads/"))
    return body


def told(text: str) -> list[tuple[str, int | None, dict[str, Any]]]:
    """Name, id and data of each server-sent event."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], int(fields["id"]) if "id" in fields else None, json.loads(fields["data"])))
    return found
