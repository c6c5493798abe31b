"""One live session: a camera's pictures in, what happens to its segments out. Knows no socket and no Ray."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from balletal.errors import VideoError
from balletal.features.live import LiveClips
from balletal.tal.localizer import Localizer
from balletal.video.jpeg import decode_jpeg

PROVISIONAL_S = 1.0
"""Seconds between looks at what may still change, at the least."""
# A look takes at most one part in so many of the time, however slow the model is.
_SHARE = 4
# Pictures may come this much sooner than their rate says: cameras are not exact.
_EARLY = 0.5

Event = dict[str, Any]
Features = Callable[[NDArray[np.uint8], int], Awaitable[NDArray[np.float32]]]


@dataclass(frozen=True)
class Picture:
    """A picture on its way in: its time in microseconds on the sender's clock, and the JPEG."""

    pts_us: int
    jpeg: bytes


class LiveSession:
    """What the pictures of one sender amount to. Memory does not grow with their number.

    Its events are ``{"type": "segment", "state", "id", "label", "start", "end", "score"}``, times in seconds on the
    sender's clock. ``state`` is ``provisional``, which may be said again of an id with other values; ``final``, which
    is said once; or ``withdrawn`` (with the id alone), which ends a provisional one.

    Args:
        features: makes the features of so many clips that begin with a run of analysis frames.
        width, height: of the pictures.
        fps: pictures a second, about.
        delay_s: seconds; how far behind final segments may be, see :meth:`balletal.tal.localizer.Localizer.sooner`.
            None: as the bundle has it.
        longest_s: how long the session may last, by either clock.

    Raises:
        InputError: a model whose features cannot be made live.
    """

    def __init__(
        self,
        localizer: Localizer,
        features: Features,
        *,
        width: int,
        height: int,
        fps: float,
        min_score: float = 0.0,
        delay_s: float | None = None,
        longest_s: float = 4 * 3600.0,
    ) -> None:
        self.clips = LiveClips(localizer.spec, partial(decode_jpeg, width=width, height=height), picture=1 / fps)
        if delay_s is not None:
            localizer = localizer.sooner(delay_s - localizer.spec.stride_s - self.clips.delay_s)
        self.stream = localizer.stream(video_id="live", min_score=min_score)
        self.dropped: Counter[str] = Counter()
        """Pictures left out since the caller emptied it, by reason: ``late``, ``rate`` or ``damaged``."""
        self.over = False
        """Whether it has lasted as long as it may: what came behind that was not taken."""
        self._features, self._longest_s = features, longest_s
        self._began = time.monotonic()
        self._origin: int | None = None  # of the sender's clock, microseconds
        self._last_s = -math.inf  # when the last picture was that was taken
        self._told: dict[int, Event] = {}  # provisional segments as the sender knows them
        self._news, self._due = False, -math.inf  # whether, and from when on, to look at them again

    @property
    def delay_s(self) -> float:
        """A segment is final when pictures have come that are so many seconds behind its end, and are worked off."""
        return self.stream.delay_s + self.stream.spec.stride_s + self.clips.delay_s

    @property
    def held(self) -> dict[str, int]:
        """What is in memory, counted."""
        return self.clips.held | self.stream.held | {"told": len(self._told)}

    async def push(self, pictures: Sequence[Picture]) -> AsyncIterator[Event]:
        """Take pictures, and tell what follows from them."""
        await asyncio.to_thread(self._take_in, pictures)
        async for event in self._work_off():
            yield event
        if self._news and time.monotonic() >= self._due:
            began = time.monotonic()
            table = await asyncio.to_thread(self.stream.provisional)
            now = time.monotonic()
            self._due, self._news = now + max(PROVISIONAL_S, (_SHARE - 1) * (now - began)), False
            for event in self._provisional(table):
                yield event

    async def finish(self) -> AsyncIterator[Event]:
        """No picture comes any more: the segments that were not final yet."""
        await asyncio.to_thread(self.clips.finish)
        async for event in self._work_off():
            yield event
        for event in self._final(await asyncio.to_thread(self.stream.finish)):
            yield event
        for event in self._withdrawn(self._told):
            yield event

    def _take_in(self, pictures: Sequence[Picture]) -> None:
        for picture in pictures:
            # The first one that is taken: or one that is damaged would begin hours of its like.
            origin = picture.pts_us if self._origin is None else self._origin
            since_s = (picture.pts_us - origin) / 1e6
            if max(since_s, time.monotonic() - self._began) > self._longest_s:
                self.over = True
                return
            if (reason := self._left_out(picture, since_s)) is not None:
                self.dropped[reason] += 1
            else:
                self._origin = origin

    def _left_out(self, picture: Picture, since_s: float) -> str | None:
        """Give a picture to the clips, or say why not."""
        if since_s <= self._last_s:
            return "late"
        if since_s - self._last_s < _EARLY * self.clips.picture:
            return "rate"
        try:
            self.clips.push(since_s, picture.jpeg)
        except VideoError:
            return "damaged"
        self._last_s = since_s
        return None

    async def _work_off(self) -> AsyncIterator[Event]:
        """Make features of the clips that are there, and tell the segments that they make final."""
        while (clips := await asyncio.to_thread(self.clips.take)) is not None:
            features = await self._features(clips.pixels, clips.count)
            self._news = True
            for event in self._final(await asyncio.to_thread(self.stream.push, features, clips.start_s)):
                yield event

    def _final(self, table: pd.DataFrame) -> Iterator[Event]:
        for event in self._events("final", table):
            self._told.pop(event["id"], None)
            yield event

    def _provisional(self, table: pd.DataFrame) -> Iterator[Event]:
        """What is new or another than it was told, and what is no more."""
        events = {event["id"]: event for event in self._events("provisional", table)}
        yield from self._withdrawn(self._told.keys() - events.keys())
        for number, event in events.items():
            if self._told.get(number) != event:
                yield event
        self._told = events

    def _withdrawn(self, numbers: Iterable[int]) -> Iterator[Event]:
        for number in sorted(numbers):
            del self._told[number]
            yield {"type": "segment", "state": "withdrawn", "id": number}

    def _events(self, state: str, table: pd.DataFrame) -> Iterator[Event]:
        origin_s = (self._origin or 0) / 1e6
        for row in table.itertuples():
            yield {
                "type": "segment",
                "state": state,
                "id": int(row.id),
                "label": str(row.label),
                "start": round(origin_s + row.start, 6),
                "end": round(origin_s + row.end, 6),
                "score": round(float(row.score), 6),
            }
