"""What the HTTP app needs done, and the backend that does it in this process."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pandas as pd

from balletal.features.extractor import Extractor, Weights
from balletal.features.store import VideoFeatures
from balletal.tal.localizer import Localizer
from balletal.video.clips import clip_times
from balletal.video.probe import VideoInfo


@dataclass(frozen=True)
class Model:
    """The bundle that answers: its name and digest."""

    name: str
    digest: str


@dataclass(frozen=True)
class Answer:
    """Detections of one video, as :meth:`balletal.tal.localizer.Localizer.localize` gives them, and warnings."""

    segments: pd.DataFrame
    warnings: Sequence[str] = ()


class Backend(Protocol):
    """A model that localizes videos."""

    async def ready(self) -> bool: ...

    async def model(self) -> Model: ...

    async def localize(self, video: Path, info: VideoInfo, *, min_score: float, top_k: int | None) -> Answer:
        """Find steps in a local file.

        Raises:
            VideoError: its pictures cannot be decoded.
        """
        ...


def video_features(extractor: Extractor, video: Path, info: VideoInfo) -> tuple[VideoFeatures, list[str]]:
    """Features of a whole short video, and what went wrong with it on the way."""
    spec = extractor.spec
    rows = extractor.extract_video(replace(info, uri=str(video)))
    start_s, end_s = clip_times(0, len(rows.features), spec)
    warnings = [f"Not all of the video could be decoded: {rows.damage}."] if rows.damage else []
    return VideoFeatures("video", start_s, end_s, rows.features), warnings


class LocalBackend:
    """Extractor and localizer of one bundle in this process, one video at a time.

    Args:
        weights, flow: of the backbone, where they are not its own.
    """

    def __init__(
        self, localizer: Localizer, weights: Weights = None, device: str = "auto", flow: str | None = None
    ) -> None:
        self.localizer = localizer
        self.extractor = Extractor(localizer.spec, weights, device, flow)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="localize")

    async def ready(self) -> bool:
        return True

    async def model(self) -> Model:
        return Model(self.localizer.name, self.localizer.digest)

    async def localize(self, video: Path, info: VideoInfo, *, min_score: float, top_k: int | None) -> Answer:
        def work() -> Answer:
            features, warnings = video_features(self.extractor, video, info)
            segments = self.localizer.localize(features, duration=info.duration, min_score=min_score, top_k=top_k)
            return Answer(segments, warnings)

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
