"""Features in, detections out, while a video is still going on."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from balletal.errors import InputError
from balletal.projection import Projection
from balletal.segments import segment_table, tiou
from balletal.tal.config import Recipe
from balletal.tal.decoding import ClassScores, Decoder, Detections, read_outputs
from balletal.tal.ensemble import Ensemble
from balletal.tal.models import TemporalModel
from balletal.tal.sequences import Grid
from balletal.tal.windows import Window, WindowedModel, Windows

# A detection is taken for one that was shown before if it is of the same class and overlaps it at least so much.
_SAME_TIOU = 0.5
# A tag goes with a detection from this probability on.
_TAG_THRESHOLD = 0.5


class Stream:
    """One video that is localized while it comes in; made by :meth:`balletal.tal.localizer.Localizer.stream`.

    :meth:`push` gives **final** detections: they are those of the whole video, whatever comes later and in whatever
    pieces it comes. :meth:`provisional` gives what can be said of the rest today; it may change and be withdrawn.
    Memory is bounded: the features of one window, the candidates of a few blocks.
    """

    def __init__(
        self,
        model: TemporalModel | Ensemble,
        projection: Projection,
        recipe: Recipe,
        names: tuple[str, ...],
        *,
        tags: tuple[str, ...] = (),
        merge: NDArray[np.int64] | None = None,
        video_id: str = "stream",
        duration: float | None = None,
        min_score: float = 0.0,
    ) -> None:
        if duration is not None and not 0 <= duration < np.inf:
            raise InputError(f"duration of {video_id}", expected="finite seconds from 0 on", found=str(duration))
        self.spec, self.names, self.tags = projection.spec, names, tags
        self.video_id, self.min_score = video_id, min_score
        self.duration = duration
        self._grid, self._merge = Grid.of(self.spec, recipe.model.upsample), merge
        self._model = WindowedModel(model, projection, Windows.of(recipe, model.configs))
        self._decoder = Decoder(self._grid, recipe.decode, located=model.located)
        self._rows, self._clip = 0, -1  # features seen, and the last one's number
        self._finished = False
        self._ids = 0
        self._shown = (Detections.join([]), np.zeros(0, np.int64))  # provisional ones that the caller knows, their ids
        self.class_scores: ClassScores | None = None  # where it is set, it is given all answers

    @property
    def delay_s(self) -> float:
        """A final detection comes with the first feature that ends at least so many seconds after the detection does.

        In a gap no feature comes; :meth:`finish` ends all waiting.
        """
        windows, blocks = (
            self._model.windows,
            2 * self._decoder.size * self._grid.step if self._decoder.located else 0.0,
        )
        features = max(blocks / self.spec.stride_s + windows.hop + windows.context, windows.size)
        return features * self.spec.stride_s + self.spec.window / self.spec.fps - min(0.0, self._grid.offset)

    def push(self, features: ArrayLike, start_s: ArrayLike) -> pd.DataFrame:
        """Take features and return the detections that have become final.

        Args:
            features: (n, D), of the spec of the bundle.
            start_s: (n,) seconds at which each feature's window begins; ascending over all calls. A feature left out
                is a gap, where nothing is detected.

        Returns:
            Segment table with ``score`` and ``id``, sorted by start, then falling score, and ``tags`` (lists of names)
            where the model tells them. A detection that :meth:`provisional` has shown keeps its id.

        Raises:
            InputError: features of another length or not finite, times that do not ascend, a finished stream.
        """
        rows, clips = self._checked(features, start_s)
        if len(clips) == 0:
            return self._table(Detections.join([]))
        found = []
        for window in self._model.push(clips, rows):
            self._add(self._decoder, window)
            found.append(self._decoder.finish(self._model.answered * self._model.upsample, self.duration))
        self._rows, self._clip = self._rows + len(clips), int(clips[-1])
        return self._settled(Detections.join(found))

    def finish(self) -> pd.DataFrame:
        """The video has ended: the detections that were not final yet, as :meth:`push` gives them.

        Raises:
            InputError: a finished stream.
        """
        self._checked(np.zeros((0, self.spec.dim)), [])
        if (window := self._model.rest()) is not None:
            self._add(self._decoder, window)
        self._finished = True
        return self._settled(self._decoder.finish(np.inf, self._end))

    def provisional(self) -> pd.DataFrame:
        """What would be found if the video ended here, without what is final: replaces what was given before.

        It runs the model on what is held of the features, so it costs as much as a window does.

        Returns:
            As of :meth:`push`. A detection of the same class that overlaps one of the last call at a tIoU of 0.5 keeps
            its id; an id that is missing was withdrawn, or has become final.
        """
        decoder = self._decoder.copy()
        if not self._finished and (window := self._model.rest()) is not None:
            self._add(decoder, window, told=False)
        found = self._loud(decoder.finish(np.inf, self._end))
        ids, _ = self._identified(found)
        self._shown = (found, ids)
        return self._table(found, ids)

    @property
    def held(self) -> dict[str, int]:
        """What is in memory: ``features``, ``candidates`` and provisional detections ``shown``."""
        shown = len(self._shown[1])
        return {"features": self._model.held, "candidates": self._decoder.held, "shown": shown}

    @property
    def _end(self) -> float:
        """Seconds: the duration, or where the last feature ends."""
        spec = self.spec
        return (self._clip * spec.stride + spec.window) / spec.fps if self.duration is None else self.duration

    def _checked(self, features: ArrayLike, start_s: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rows, start = np.asarray(features, dtype=np.float32), np.asarray(start_s, dtype=np.float64)
        if self._finished:
            raise InputError(f"stream of {self.video_id}", expected="nothing after its end", found="another call")
        if rows.shape != (len(start), self.spec.dim):
            expected = f"shape (T, {self.spec.dim}) for T times"
            raise InputError(
                f"features of {self.video_id}", expected=expected, found=f"{rows.shape}, {len(start)} times"
            )
        if not np.isfinite(rows).all():
            row = self._rows + int(np.argwhere(~np.isfinite(rows))[0][0])
            raise InputError(
                f"features of {self.video_id}, row {row}", expected="finite values", found="NaN or infinity"
            )
        if not (np.isfinite(start).all() and (start >= 0).all()):
            raise InputError(f"times of {self.video_id}", expected="finite seconds from 0 on", found=str(start))
        clips = np.rint(start / self.spec.stride_s).astype(np.int64)
        if (np.diff(clips, prepend=self._clip) <= 0).any():
            row = self._rows + int(np.argmax(np.diff(clips, prepend=self._clip) <= 0))
            raise InputError(f"times of {self.video_id}, row {row}", expected="ascending", found="an earlier one")
        return rows, clips

    def _add(self, decoder: Decoder, window: Window, *, told: bool = True) -> None:
        spec = self.spec
        span = (window.start * spec.stride_s, ((window.stop - 1) * spec.stride + spec.window) / spec.fps)
        if window.whole:
            span = (0.0, (span[1] if self.duration is None else self.duration))
        answers = read_outputs(window.outputs, 0, self._grid, span, self._merge)
        decoder.add(answers)
        if told and self.class_scores is not None:
            self.class_scores.add(answers)

    def _loud(self, found: Detections) -> Detections:
        return found.take(found.scores >= self.min_score)

    def _settled(self, found: Detections) -> pd.DataFrame:
        """Final detections, which are shown no longer."""
        found = self._loud(found)
        ids, known = self._identified(found)
        shown, shown_ids = self._shown
        left = np.setdiff1d(np.arange(len(shown_ids)), known)
        self._shown = (shown.take(left), shown_ids[left])
        return self._table(found, ids)

    def _identified(self, found: Detections) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The id of each detection, an old or a new one, and the indices of those shown that they are."""
        shown, shown_ids = self._shown
        same = tiou(found.segments, shown.segments) * (found.labels[:, None] == shown.labels)
        ids, known = np.full(len(found.scores), -1), []
        if same.size:
            for i in np.argsort(-found.scores, kind="stable"):
                best = int(same[i].argmax())
                if same[i, best] >= _SAME_TIOU:
                    ids[i], same[:, best] = shown_ids[best], 0.0
                    known.append(best)
        new = np.flatnonzero(ids < 0)
        ids[new] = np.arange(self._ids, self._ids + len(new))
        self._ids += len(new)
        return ids, np.array(known, dtype=np.int64)

    def _table(self, found: Detections, ids: NDArray[np.int64] | None = None) -> pd.DataFrame:
        names: list[Any] = [self.names[c] for c in found.labels]
        ids = np.zeros(0, np.int64) if ids is None else ids
        start, end = found.segments.T
        table = segment_table(self.video_id, start, end, names, score=found.scores, id=ids)
        if self.tags:
            told = [[self.tags[g] for g in np.flatnonzero(row >= _TAG_THRESHOLD)] for row in found.tags]
            table["tags"] = pd.Series(told, dtype=object)
        return table.sort_values(["start", "score"], ascending=[True, False], kind="stable", ignore_index=True)
