"""How far an extraction is: lines for a person, Ray metrics for a dashboard, totals for `run.json`."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.util import metrics

from balletal.video.clips import VideoSegment
from workflows.console import say

OnVideo = Callable[[str, list[int], float], None]
"""Is given a video's id, those of its segments that the store has, ascending, and its length in seconds."""

_EVERY_S = 10.0


class Progress:
    """Counts what the stages of an extraction report, unit by unit.

    Args:
        units_of: number of units still to do of each video.
        slots: how many tasks of each stage the cluster runs at the same time.
        resources: CPUs and GPUs of the cluster now; it may grow and shrink.
    """

    def __init__(
        self,
        units_of: Mapping[str, int],
        slots: Mapping[str, int],
        resources: Callable[[], tuple[float, float]],
    ) -> None:
        self.started = self._told = time.monotonic()
        self._left = Counter(units_of)
        self.videos, self.units = len(units_of), sum(units_of.values())
        self._slots = dict(slots)
        self._busy_s = dict.fromkeys([*slots, "write"], 0.0)
        self._resources, self._held = resources, resources()
        self._held_s, self._counted = (0.0, 0.0), self.started
        self.done = self.failed = self.frames = self.rows = 0
        self.video_s = 0.0
        counters = {
            "segments": "units of work finished",
            "failed": "units of work without features",
            "frames": "analysis frames decoded",
            "features": "feature rows written",
            "video_seconds": "seconds of video finished",
        }
        self._counters = {
            name: metrics.Counter(f"balletal_extract_{name}", description=about) for name, about in counters.items()
        }
        self._rate = metrics.Gauge("balletal_extract_video_hours_per_hour", description="speed since the start")

    def add(self, unit: Mapping[str, Any]) -> None:
        """Count one unit: ``video_id``, ``rows``, ``frames``, ``video_s``, ``failed``, and ``<stage>_s`` of work."""
        self.done += 1
        self.failed += unit["failed"]
        self.rows += unit["rows"]
        self.frames += unit["frames"]
        self.video_s += unit["video_s"]
        for stage in self._busy_s:
            self._busy_s[stage] += unit.get(f"{stage}_s", 0.0)
        self._left[unit["video_id"]] -= 1
        for name, value in (
            ("segments", 1),
            ("failed", int(unit["failed"])),
            ("frames", unit["frames"]),
            ("features", unit["rows"]),
            ("video_seconds", unit["video_s"]),
        ):
            if value:
                self._counters[name].inc(value)
        self._rate.set(self.video_s / self.elapsed)
        self._count_resources()
        if time.monotonic() - self._told > _EVERY_S or self.done == self.units:
            self._told = time.monotonic()
            say(str(self))

    def _count_resources(self) -> None:
        """Charge the time since the last count to what the cluster had then."""
        now = time.monotonic()
        if (passed := now - self._counted) < 1 and self.done < self.units:
            return
        self._held_s = (self._held_s[0] + passed * self._held[0], self._held_s[1] + passed * self._held[1])
        self._held, self._counted = self._resources(), now

    @property
    def elapsed(self) -> float:
        return max(time.monotonic() - self.started, 1e-3)

    def __str__(self) -> str:
        videos = sum(left <= 0 for left in self._left.values())
        left_s = (self.units - self.done) * self.elapsed / max(1, self.done)
        return (
            f"{self.done} of {self.units} segments, {videos} of {self.videos} videos, {self.rows} features, "
            f"{self.frames / self.elapsed:.0f} frames/s, {self.video_s / self.elapsed:.2f} video-hours an hour, "
            f"{left_s / 60:.0f} min left, {self.failed} failed"
        )

    def totals(self, price: float | None = None) -> dict[str, Any]:
        """What `run.json` says of the work. All of the cluster is counted for as long as the work took.

        Args:
            price: of an hour of the cluster, in any currency.
        """
        hours, video_hours = self.elapsed / 3600, self.video_s / 3600
        each = {"cpu_hours": self._held_s[0] / 3600, "gpu_hours": self._held_s[1] / 3600}
        if price is not None:
            each["price"] = price * hours
        return {
            "seconds": round(self.elapsed, 2),
            "frames": self.frames,
            "video_hours": round(video_hours, 5),
            "frames_per_s": round(self.frames / self.elapsed, 2),
            "video_hours_per_hour": round(video_hours / hours, 3),
            "stages": {
                stage: {"busy_s": round(busy, 2)}
                | (  # writing is waiting, of as many tasks as there is something to write
                    {
                        "slots": self._slots[stage],
                        "utilisation": round(busy / self.elapsed / self._slots[stage], 3),
                    }
                    if stage in self._slots
                    else {}
                )
                for stage, busy in self._busy_s.items()
            },
            "cluster": {"cpus": self._held[0], "gpus": self._held[1]},
            "per_video_hour": {
                name: round(value / video_hours, 4) if video_hours else None for name, value in each.items()
            },
        }


class Through:
    """Tells of videos whose units are all through: at once of those that have none left to do.

    Args:
        units: of all videos.
        todo, finished: those of them that are to be done, and those (video_id, segment) that the store has.
    """

    def __init__(
        self,
        units: Sequence[VideoSegment],
        todo: Sequence[VideoSegment],
        finished: set[tuple[str, int]],
        on_video: OnVideo,
    ) -> None:
        self._on_video = on_video
        self._left = Counter(unit.video_id for unit in todo)
        self._have: dict[str, list[int]] = {unit.video_id: [] for unit in units}
        self._durations = {unit.video_id: unit.duration for unit in units}
        for unit in units:
            if (unit.video_id, unit.segment) in finished:
                self._have[unit.video_id].append(unit.segment)
        for video_id in [video_id for video_id in self._have if not self._left[video_id]]:
            self._tell(video_id)

    def add(self, unit: Mapping[str, Any]) -> None:
        video_id = unit["video_id"]
        if not unit["failed"]:
            self._have[video_id].append(unit["segment"])
        self._left[video_id] -= 1
        if not self._left[video_id]:
            self._tell(video_id)

    def _tell(self, video_id: str) -> None:
        segments = sorted(self._have.pop(video_id))
        if segments:
            self._on_video(video_id, segments, self._durations[video_id])
