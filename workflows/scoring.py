"""Localize videos while their features come, and commit what is found: the middle of :mod:`workflows.score`.

videos -> localizer actors -> parts of some videos -> balletal.detections

A video is scored when a part that names it is committed, with the versions of what it was made from, which is all that
a later run needs to know. Whatever is wrong with a video becomes a row of the errors, and the others go on.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import ray
import torch
from ray.exceptions import RayTaskError

from balletal.detections import EVERYONE, DetectionStore
from balletal.errors import BalletalError, InputError
from balletal.features.listing import VideoState
from balletal.features.store import FeatureStore, VideoFeatures
from balletal.tal.localizer import Localizer
from schemas import arrow
from workflows.cluster import nodes
from workflows.sources import Source

OnProgress = Callable[[str, int, int], None]
"""Is told how far a run is: the stage (``extracting``, ``localizing``), what is done (segments, videos), and of how
many."""
OnVideos = Callable[[dict[str, pd.DataFrame]], None]
"""Is given the detections (segment tables with ``score``) of videos that are finished, by video id."""

# Videos of a task, of a part, and how old a part may become before it is committed.
_PER_TASK, _PER_PART, _PART_S = 16, 256, 60.0
# CPUs of a cluster for each localizer that runs beside an extraction.
_CPUS_BESIDE = 16
# Tasks that an actor has before it, and how often it may come to life again.
_AHEAD, _DEATHS = 2, 8


class Video(NamedTuple):
    """A video to localize.

    Attributes:
        version: of its file, empty where it is not known.
        state: of its features; a digest that is empty is looked up before they are read.
        duration: seconds; None: where the last feature ends.
    """

    video_id: str
    version: str
    state: VideoState
    duration: float | None


class Failure(NamedTuple):
    """Why a video has no detections: the error's class and what it says."""

    video_id: str
    type: str
    message: str


class Result(NamedTuple):
    """What a task gives: schemas.arrow.SCORED, the detections of those videos, and the videos that failed."""

    videos: pa.Table
    detections: pa.Table
    failures: list[Failure]


class Scoring:
    """Localizes videos in actors while more are added.

    Args:
        bundle: of the actors' localizer, readable on every node.
        options: of :meth:`Localizer.localize`.
        owner: of the parts, see :meth:`balletal.detections.DetectionStore.compact`.
    """

    def __init__(
        self,
        bundle: str,
        store: FeatureStore,
        into: DetectionStore,
        options: Mapping[str, Any],
        owner: str = EVERYONE,
        on_progress: OnProgress | None = None,
        on_videos: OnVideos | None = None,
    ) -> None:
        self._made_of = bundle, store, dict(options)
        self._store, self._into, self._owner = store, into, owner
        self._on_progress, self._on_videos = on_progress, on_videos
        self._actors: list[Any] = []
        self._waiting: deque[Video] = deque()
        self._running: dict[Any, Any] = {}  # the actor of each task
        self._results: list[Result] = []
        self._begun = time.monotonic()
        self.failures: dict[str, Failure] = {}
        """By video id."""
        self.scored = 0
        """Videos that this run has localized."""
        self._known, self._total = 0, 0  # videos that were scored before, and all there are
        self._scored: dict[str, str] | None = None  # the versions that were scored before, by video id

    def beside(self, versions: Mapping[str, str], video_id: str, segments: Sequence[int], duration: float) -> None:
        """Take a video whose features are complete while those of others are made, unless this version of it is scored.

        Args:
            versions: of the files, by video id.
        """
        if self._scored is None:
            scored = self._into.videos()
            self._scored = dict(zip(scored["video_id"], scored["version"], strict=True))
            self._known = sum(self._scored.get(video) == version for video, version in versions.items())
            self._total = len(versions)
            self._grow(int(sum(node.get("CPU", 0) for node in nodes()) // _CPUS_BESIDE))
        if self._scored.get(video_id) != versions[video_id]:
            self._waiting.append(Video(video_id, versions[video_id], VideoState(tuple(segments), ""), duration))
        self._turn()

    def rest(self, sources: Sequence[Source]) -> None:
        """Score what there are features of, and is not scored as it is now; wait for all, and commit it."""
        self._finish()
        states = self._store.states()
        found = [(source.video_id, source.version) for source in sources if source.video_id in states]
        plan = pd.DataFrame(found, columns=["video_id", "version"], dtype="str")
        plan["features"] = pd.Series([states[video].digest for video, _ in found], dtype="str")
        todo = missing(plan, self._into.videos())
        todo = todo[~todo["video_id"].isin(self.failures)]
        self._known, self._total = len(plan) - len(todo) - self.scored - len(self.failures), len(plan)
        if len(todo):
            table = self._store.videos()
            # A video's imported features have a row of their own beside the file's, without a duration.
            table = table[table["video_id"].isin(todo["video_id"])].dropna(subset=["duration"])
            durations = dict(zip(table["video_id"], table["duration"], strict=True))
            cpus = int(sum(node.get("CPU", 0) for node in nodes()))
            self._grow(min(cpus - 1, -(-len(todo) // _PER_TASK)))
            for video_id, version, digest in todo.itertuples(index=False):
                state = VideoState(states[video_id].segments, digest)
                self._waiting.append(Video(video_id, version, state, durations.get(video_id)))
                self._turn()
                while len(self._waiting) >= _PER_TASK:
                    self._turn(wait_s=None)
        self._finish()
        self._actors.clear()  # Ray ends them

    def _grow(self, actors: int) -> None:
        """Have so many actors, or one. They take no CPU from Ray's count: beside an extraction they have little to do,
        and neither must wait for the other."""
        make = ray.remote(num_cpus=0, max_restarts=_DEATHS, max_task_retries=_DEATHS, scheduling_strategy="SPREAD")
        while len(self._actors) < max(1, actors):
            self._actors.append(make(Localize).remote(*self._made_of))

    def _finish(self) -> None:
        while self._waiting or self._running:
            self._turn(rest=True, wait_s=None)
        self._commit()

    def _turn(self, *, rest: bool = False, wait_s: float | None = 0) -> None:
        """Give actors work, a task's worth or the rest; take what is done."""
        for actor in self._actors:
            busy = sum(one is actor for one in self._running.values())
            while busy < _AHEAD and self._waiting and (rest or len(self._waiting) >= _PER_TASK or not busy):
                task = [self._waiting.popleft() for _ in range(min(_PER_TASK, len(self._waiting)))]
                self._running[actor.localize.remote(task)] = actor
                busy += 1
        ready, _ = ray.wait(list(self._running), timeout=wait_s) if self._running else ([], [])
        for task in ready:
            del self._running[task]
            self._take(_result(task))

    def _take(self, result: Result) -> None:
        self._results.append(result)
        self.failures |= {failure.video_id: failure for failure in result.failures}
        self.scored += len(result.videos)
        if self._on_videos:
            table = result.detections.to_pandas().drop(columns="bundle")
            found = {video: rows.reset_index(drop=True) for video, rows in table.groupby("video_id")}
            # Told before it is committed: what is not told twice may never be told at all.
            self._on_videos({video: found.get(video, table[:0]) for video in result.videos["video_id"].to_pylist()})
        if self._on_progress:
            done = self._known + self.scored + len(self.failures)
            self._on_progress("localizing", done, max(done, self._total))
        if sum(len(one.videos) for one in self._results) >= _PER_PART or time.monotonic() - self._begun > _PART_S:
            self._commit()

    def _commit(self) -> None:
        videos = pa.concat_tables([arrow.SCORED.empty_table(), *(one.videos for one in self._results)])
        if len(videos):
            detections = pa.concat_tables([one.detections for one in self._results])
            self._into.write(videos, detections, owner=self._owner)
        self._results, self._begun = [], time.monotonic()


def missing(plan: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """The rows of a plan (``video_id``, ``version``, ``features``) that are not scored as they are now."""
    columns = ["video_id", "version", "features"]
    found = plan.merge(scored[columns], on=columns, how="left", indicator=True)
    return plan[(found["_merge"] == "left_only").to_numpy()]


def _result(task: Any) -> Result:
    try:
        result: Result = ray.get(task)
    except RayTaskError as error:  # a store that cannot be read is told by the error that says so
        raise error.cause if isinstance(error.cause, BalletalError) else error from None
    return result


class Localize:
    """The model, in an actor. A video that cannot be localized becomes a failure that says why."""

    def __init__(self, bundle: str, store: FeatureStore, options: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.localizer = Localizer.load(bundle)
        self.store = store
        self.options = options  # of Localizer.localize

    def localize(self, videos: list[Video]) -> Result:
        """The detections of some videos."""
        # Before anything is read: what changes meanwhile is then known to be other than what was looked at.
        digests = [v.state.digest or self.store.state(v.video_id, v.state.segments).digest for v in videos]
        schema = arrow.TAGGED_DETECTIONS if self.localizer.tags else arrow.DETECTIONS
        tables, scored, failures = [schema.empty_table()], [], []
        for (video, features), digest in zip(_read(self.store, videos), digests, strict=True):
            try:
                if isinstance(features, Exception):
                    raise features
                found = self.localizer.localize(features, duration=video.duration, **self.options)
                found = found.assign(bundle=self.localizer.digest)[schema.names]
                tables.append(pa.Table.from_pandas(found, schema, preserve_index=False).replace_schema_metadata())
                about = {"version": video.version, "features": digest, "detections": len(found)}
                scored.append({"video_id": video.video_id} | about)
            except Exception as error:  # whatever a video does, the others go on
                failures.append(Failure(video.video_id, type(error).__name__, str(error)))
        return Result(pa.Table.from_pylist(scored, arrow.SCORED), pa.concat_tables(tables), failures)


def _read(store: FeatureStore, videos: list[Video]) -> Iterator[tuple[Video, VideoFeatures | Exception]]:
    """Read ahead, and begin again behind a video that cannot be read."""
    at = 0
    while at < len(videos):
        try:
            for features in store.iter_units({video.video_id: video.state.segments for video in videos[at:]}):
                yield videos[at], features
                at += 1
        except InputError as error:
            yield videos[at], error
            at += 1
