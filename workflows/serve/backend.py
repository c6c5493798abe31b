"""What the HTTP app needs done, and the backend that does it in this process."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from balletal.backbones.spec import FeatureSpec
from balletal.features.extractor import Extractor, Weights
from balletal.features.store import VideoFeatures
from balletal.features.units import UnitFrames
from balletal.tal.localizer import Localizer
from balletal.video.clips import analysis_frames, clip_count, clip_times
from balletal.video.guard import guarded
from balletal.video.probe import VideoInfo
from workflows.serve.metrics import Stages
from workflows.serve.runner import JobRunner

T = TypeVar("T")

CONTEXT_S = 10.0
"""Seconds to either side that are looked at with a part of a video."""

# What a decoder may take for one call before it counts as hung.
_LIMIT_S, _LIMIT_PER_VIDEO_S = 60.0, 5.0


@dataclass(frozen=True)
class Model:
    """A bundle that is served.

    Attributes:
        version: what the bundle's ``about`` says, else the head of its digest.
        labels: the classes.
        spec: of the features that it reads.
        tags: what else a segment can be said to be.
    """

    name: str
    version: str
    digest: str
    labels: tuple[str, ...]
    spec: FeatureSpec
    tags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @classmethod
    def of(cls, localizer: Localizer) -> "Model":
        version = str(localizer.about.get("version") or localizer.digest[:12])
        names = localizer.class_names()
        return cls(localizer.name, version, localizer.digest, names, localizer.spec, localizer.tags)


def pick(models: Sequence[Model], name: str) -> Model | None:
    """The model of a ``name@version``; of a name alone, the one that was named last. None: there is none."""
    return next((model for model in reversed(models) if name in (model.id, model.name)), None)


@dataclass(frozen=True)
class Answer:
    """What was found in one video.

    Attributes:
        segments: segment table with ``score``, sorted by start, then falling score.
        warnings: what the client should know, in words.
        seconds: that the stages took: ``features``, ``localize``.
    """

    segments: pd.DataFrame
    warnings: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What of a video is localized, and what is told of it.

    Of a part, the model sees :data:`CONTEXT_S` more on either side. The segments that touch the part are given, on the
    clock of the video.

    Attributes:
        start, end: seconds; None for the video's beginning or end.
        min_score: lowest score.
        top_k: at most so many segments, the best.
    """

    start: float | None = None
    end: float | None = None
    min_score: float = 0.0
    top_k: int | None = None

    def clips(self, info: VideoInfo, spec: FeatureSpec) -> tuple[int, int]:
        """The clips ``[first, stop)`` that are looked at: those that touch the part or its context."""
        total = clip_count(analysis_frames(info.duration, spec.fps), spec.window, spec.stride)
        start = 0.0 if self.start is None else max(0.0, self.start - CONTEXT_S)
        end = info.duration if self.end is None else self.end + CONTEXT_S
        first = int((start - spec.window / spec.fps) / spec.stride_s) + 1 if start > spec.window / spec.fps else 0
        return min(first, total - 1), min(total, int(end / spec.stride_s) + 1)

    def of(self, segments: pd.DataFrame) -> pd.DataFrame:
        """The segments that touch the part, at most ``top_k`` of them."""
        keep = np.ones(len(segments), dtype=bool)
        if self.start is not None:
            keep &= (segments["end"] > self.start).to_numpy()
        if self.end is not None:
            keep &= (segments["start"] < self.end).to_numpy()
        found = segments[keep]
        best = found if self.top_k is None else found.nlargest(self.top_k, "score")
        return best.sort_values(["start", "score"], ascending=[True, False], ignore_index=True)


WHOLE = Part()
"""All of a video, and all that is found."""


class Backend(Protocol):
    """Models that localize videos. ``model`` is always the id of one that :meth:`models` gives.

    Attributes:
        runner: of jobs; None where there are none.
    """

    runner: JobRunner | None

    async def ready(self) -> bool: ...

    async def models(self) -> Sequence[Model]:
        """At least one; the last is the default."""
        ...

    async def localize(self, model: str, video: str | Path, info: VideoInfo, part: Part = WHOLE) -> Answer:
        """Find steps in a video, or in a part of it.

        Args:
            video: a path or URI that every node can read; a :class:`Path` is a file of this machine alone.

        Raises:
            VideoError: its pictures cannot be decoded.
        """
        ...

    async def infer(
        self, model: str, features: NDArray[np.float32], start_s: NDArray[np.float64], *, min_score: float = 0.0
    ) -> pd.DataFrame:
        """Find steps in features.

        Args:
            features: (T, D) of the model's spec.
            start_s: (T,) ascending seconds at which each feature's window begins.

        Returns:
            Segment table with ``score``.

        Raises:
            InputError: features of another length or not finite, times that do not ascend.
        """
        ...

    async def features(self, model: str, pixels: NDArray[np.uint8], clips: int | None = None) -> NDArray[np.float32]:
        """Features of a run of analysis frames, see :func:`live_features`."""
        ...

    async def localizer(self, model: str) -> Localizer:
        """The model itself, without the backbone: small enough to run here."""
        ...


def video_features(
    extractor: Extractor, video: str, info: VideoInfo, part: Part = WHOLE
) -> tuple[VideoFeatures, list[str]]:
    """Features of a video, as far as a part of it wants them, and what went wrong with it on the way."""
    limit_s = _LIMIT_S + _LIMIT_PER_VIDEO_S * info.duration
    clips = part.clips(info, extractor.spec)
    rows = extractor.extract_video(replace(info, uri=video), clips, partial(guarded, uri=video, limit_s=limit_s))
    start_s, end_s = clip_times(clips[0], len(rows.features), extractor.spec)
    warnings = [f"Not all of the video could be decoded: {rows.damage}."] if rows.damage else []
    return VideoFeatures("video", start_s, end_s, as_stored(rows.features, extractor.spec)), warnings


def live_features(extractor: Extractor, pixels: NDArray[np.uint8], clips: int | None) -> NDArray[np.float32]:
    """Features of the clips that a run of analysis frames has, as a store rounds them: (clips, D).

    Args:
        pixels: see :class:`balletal.features.live.Clips`.
        clips: how many; None: all.
    """
    return as_stored(extractor.extract_unit(UnitFrames.of(pixels, extractor.spec), clips), extractor.spec)


def features_of(features: NDArray[np.float32], start_s: NDArray[np.float64], spec: FeatureSpec) -> VideoFeatures:
    """Features that somebody else made, as those of a video."""
    return VideoFeatures("features", start_s, start_s + spec.window / spec.fps, features)


def as_stored(features: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.float32]:
    """Features as a store would give them back, so that an answer is that of `balletal score`."""
    return features.astype(spec.stored_dtype).astype(np.float32)


def localize_part(
    localizer: Localizer,
    video: VideoFeatures,
    duration: float | None,
    part: Part = WHOLE,
) -> pd.DataFrame:
    """:meth:`Localizer.localize`, and of that what is wanted."""
    if (part.start, part.end) == (None, None):
        return localizer.localize(video, duration=duration, min_score=part.min_score, top_k=part.top_k)
    return part.of(localizer.localize(video, duration=duration, min_score=part.min_score))


class LocalBackend:
    """Bundles in this process, one piece of work at a time; bundles of one feature spec share its extractor.

    Args:
        bundles: the last is the default.
        weights, flow: of the backbone, where they are not its own; the same for all.
        runner: of jobs.
    """

    def __init__(
        self,
        bundles: Sequence[Localizer],
        weights: Weights = None,
        device: str = "auto",
        flow: str | None = None,
        runner: JobRunner | None = None,
    ) -> None:
        self._models = [Model.of(localizer) for localizer in bundles]
        self._localizers = {model.id: one for model, one in zip(self._models, bundles, strict=True)}
        self._extractors = {
            spec: Extractor(spec, weights, device, flow) for spec in {localizer.spec for localizer in bundles}
        }
        self.runner = runner
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="localize")

    async def ready(self) -> bool:
        return True

    async def models(self) -> Sequence[Model]:
        return self._models

    async def localizer(self, model: str) -> Localizer:
        return self._localizers[model]

    async def localize(self, model: str, video: str | Path, info: VideoInfo, part: Part = WHOLE) -> Answer:
        localizer = self._localizers[model]

        def work() -> Answer:
            stage = Stages()
            with stage("features"):
                features, warnings = video_features(self._extractors[localizer.spec], str(video), info, part)
            with stage("localize"):
                found = localize_part(localizer, features, info.duration, part)
            return Answer(found, warnings, stage)

        return await self._do(work)

    async def infer(
        self, model: str, features: NDArray[np.float32], start_s: NDArray[np.float64], *, min_score: float = 0.0
    ) -> pd.DataFrame:
        localizer = self._localizers[model]
        video = features_of(features, start_s, localizer.spec)
        return await self._do(lambda: localizer.localize(video, min_score=min_score))

    async def features(self, model: str, pixels: NDArray[np.uint8], clips: int | None = None) -> NDArray[np.float32]:
        extractor = self._extractors[self._localizers[model].spec]
        return await self._do(lambda: live_features(extractor, pixels, clips))

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
