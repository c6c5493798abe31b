"""From a model's outputs to detections in seconds, block of time after block of time.

A candidate belongs to the block that its point lies in. NMS looks at a block and its two neighbours and keeps what it
picks of the middle one. So a block's detections depend on a stretch of three blocks alone: videos of any length and
streams are decoded by the same rule, in memory that does not grow. A segment reaches no farther than the neighbours.

A model that says boundaries as fractions (``paper``) knows no place in time: there each window of the model is a block
that has no neighbours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from balletal.tal.config import DecodeConfig
from balletal.tal.models import Outputs
from balletal.tal.nms import soft_nms
from balletal.tal.sequences import Grid


class Answers(NamedTuple):
    """What a model says at P points, as numbers for people.

    Attributes:
        at: (P,) in sub-steps, as in :class:`balletal.tal.models.Outputs`.
        segments: (P, 2) start and end, seconds; they may lie outside the video.
        scores: (P, C) of the classes, in [0, 1].
        tags: (P, G) probability of each tag.
    """

    at: NDArray[np.float64]
    segments: NDArray[np.float64]
    scores: NDArray[np.float64]
    tags: NDArray[np.float64]


class Detections(NamedTuple):
    """N segments (N, 2) in seconds, their scores (N,), class ids (N,) and probabilities of tags (N, G)."""

    segments: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    tags: NDArray[np.float64]

    def take(self, index: NDArray) -> "Detections":
        return Detections(*(column[index] for column in self))

    @classmethod
    def join(cls, parts: Sequence["Detections"]) -> "Detections":
        parts = [part for part in parts if len(part.scores)]  # an empty one need not know how many tags there are
        if not parts:
            return cls(np.zeros((0, 2)), np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 0)))
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def is_located(outputs: Outputs) -> bool:
    """Whether boundaries are distances from the points, not fractions of the video."""
    return outputs.quality.ndim == 2


def read_outputs(
    outputs: Outputs, b: int, grid: Grid, span: tuple[float, float], merge: NDArray[np.int64] | None = None
) -> Answers:
    """The answers for video ``b`` at its real points.

    Args:
        span: seconds; what boundaries said as fractions are fractions of.
        merge: (C,) class that each class becomes part of: their probabilities add up, to at most 1. None: none does.
    """
    real = outputs.mask[b]
    at = outputs.at[real].cpu().numpy()
    logits = outputs.classes[b, real].double()
    boundaries = outputs.boundaries[b, real].double().cpu().numpy()
    located = is_located(outputs)
    probabilities = (logits.sigmoid() if located else logits.softmax(-1)).cpu().numpy()
    if merge is not None:
        probabilities = (probabilities @ np.eye(merge.max() + 1)[merge]).clip(max=1.0)
    tags = outputs.tags[b, real].double().sigmoid().cpu().numpy()
    if not located:
        return Answers(at, span[0] + boundaries * (span[1] - span[0]), probabilities, tags)
    # The geometric mean of "this class" and "these boundaries": both must hold.
    quality = outputs.quality[b, real].double().sigmoid().cpu().numpy()
    center = grid.offset + at * grid.step
    segments = center[:, None] + boundaries * grid.step * np.array([-1.0, 1.0])
    return Answers(at, segments, np.sqrt(probabilities * quality[:, None]), tags)


def temper(scores: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """sigmoid(logit(score) / temperature): the order of scores stays, and so do 0, 0.5 and 1."""
    if temperature == 1.0:
        return scores
    yes, no = scores ** (1 / temperature), (1 - scores) ** (1 / temperature)
    return yes / (yes + no)


class Decoder:
    """Answers in, detections of finished blocks out; holds the candidates of a few blocks.

    Args:
        located: whether boundaries are distances, not fractions.
    """

    def __init__(self, grid: Grid, config: DecodeConfig, *, located: bool) -> None:
        self.grid, self.config, self.located = grid, config, located
        self.size = max(1, round(config.block / grid.step))  # of a block, sub-steps
        self._blocks: dict[int, Detections] = {}  # candidates of each, best first
        self._next = 0  # the first block that is not finished

    def copy(self) -> "Decoder":
        """One that can go on without changing this one."""
        other = Decoder(self.grid, self.config, located=self.located)
        other._blocks, other._next = dict(self._blocks), self._next
        return other

    @property
    def held(self) -> int:
        """Candidates in memory."""
        return sum(len(block.scores) for block in self._blocks.values())

    def add(self, answers: Answers) -> None:
        """Take the answers of the model's next window."""
        point, label = np.nonzero(answers.scores > self.config.min_score)
        found = Detections(answers.segments[point], answers.scores[point, label], label, answers.tags[point])
        if self.located:
            block = (answers.at[point] // self.size).astype(np.int64)
        else:
            block = np.full(len(point), self._next + len(self._blocks))
        for m in np.unique(block).tolist():
            held = Detections.join([*([self._blocks[m]] if m in self._blocks else []), found.take(block == m)])
            self._blocks[m] = held.take(np.argsort(-held.scores, kind="stable")[: self.config.candidates])

    def finish(self, answered: float, duration: float | None) -> Detections:
        """Detections of the blocks that no later answer can change, block after block, each best first.

        Args:
            answered: sub-steps; no answer comes any more for a point before it.
            duration: seconds, where detections end; None while it is not known, which is past all finished blocks.
        """
        done = answered // self.size - 1 if self.located and answered < np.inf else np.inf
        parts = [self._decode(m, duration) for m in sorted(self._blocks) if self._next <= m < done]
        if np.isfinite(done):
            self._next = max(self._next, int(done))
            self._blocks = {m: block for m, block in self._blocks.items() if m >= self._next - 1}
        else:
            self._next, self._blocks = max(self._blocks, default=-1) + 1, {}
        return Detections.join(parts)

    def _decode(self, m: int, duration: float | None) -> Detections:
        near = [m - 1, m, m + 1] if self.located else [m]
        blocks = [(self._blocks[n], n == m) for n in near if n in self._blocks]
        found = Detections.join([block for block, _ in blocks])
        own = np.repeat([mine for _, mine in blocks], [len(block.scores) for block, _ in blocks])
        low, high = 0.0, np.inf if duration is None else duration
        if self.located:
            edges = self.grid.offset + np.array([m - 1, m + 2]) * self.size * self.grid.step
            low, high = max(low, edges[0]), min(high, edges[1])
        segments = found.segments.clip(low, max(low, high))
        longer = segments[:, 1] > segments[:, 0]
        found, own = found._replace(segments=segments).take(longer), own[longer]
        config = self.config
        minutes = self.size * self.grid.step / 60 if self.located else 1.0
        segments, scores, index = soft_nms(
            *found[:2],
            labels=found.labels,
            counted=own,
            method=config.nms,
            sigma=config.sigma,
            iou_threshold=config.iou_threshold,
            min_score=config.min_score,
            max_segments=math.ceil(config.max_segments * minutes),
        )
        picked = found.take(index)._replace(segments=segments, scores=temper(scores, config.temperature))
        return picked.take(own[index])


def decode(outputs: Outputs, b: int, grid: Grid, duration: float, config: DecodeConfig) -> Detections:
    """Detections of video ``b`` from outputs for the whole of it, best first."""
    decoder = Decoder(grid, config, located=is_located(outputs))
    decoder.add(read_outputs(outputs, b, grid, (0.0, duration)))
    found = decoder.finish(np.inf, duration)
    return found.take(np.argsort(-found.scores, kind="stable"))


class ClassScores:
    """How sure a model is of each class at some moments; takes the answers window by window.

    Where boundaries are distances, a class scores what the best candidate that covers the moment scores: only the
    middle of a step is trained to know its class. Where they are fractions (``paper``), it is the class head's
    probability.

    Args:
        times: (N,) ascending seconds.
        num_classes: C.
        features: T, features of the video.
    """

    def __init__(
        self,
        times: NDArray[np.float64],
        num_classes: int,
        features: int,
        grid: Grid,
        config: DecodeConfig,
        *,
        located: bool,
    ) -> None:
        self.times, self.grid, self.config, self.located = times, grid, config, located
        self._step = np.floor((times - grid.offset) / grid.step).clip(
            0, max(0, features - 1)
        )  # fractions: one a feature
        self._scores = np.zeros((len(times), num_classes))

    def add(self, answers: Answers) -> None:
        """Take the answers of the model's next window."""
        if not self.located:
            index = np.searchsorted(answers.at, self._step).clip(0, max(0, len(answers.at) - 1))
            if len(answers.at):
                here = np.flatnonzero(answers.at[index] == self._step + 0.5)
                self._scores[here] = answers.scores[index[here]]
            return
        point, label = np.nonzero(answers.scores > self.config.min_score)
        first, last = np.searchsorted(self.times, answers.segments[point].T)
        some = last > first
        if some.any():
            span = slice(first[some].min(), last[some].max())
            first, last = first[some] - span.start, last[some] - span.start
            there = self._scores[span]
            scores = answers.scores[point, label][some]
            np.maximum(there, _highest(first, last, label[some], scores, there.shape), out=there)

    def result(self) -> NDArray[np.float64]:
        """(N, C) in [0, 1]."""
        return temper(self._scores, self.config.temperature)


def _highest(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    label: NDArray[np.int64],
    score: NDArray[np.float64],
    shape: tuple[int, ...],
) -> NDArray[np.float64]:
    """The highest score of the intervals [first, last) of each class that cover each of n places: ``shape`` (n, C).

    An interval is two that may overlap, each a power of two long; those of one length are halved together.
    """
    power = np.frexp(last - first)[1] - 1  # the largest with 2**power <= length
    table = np.zeros(shape)
    for k in range(int(power.max()), -1, -1):
        if k < power.max():  # halves of what is twice as long
            halved = table.copy()
            np.maximum(halved[2**k :], table[: -(2**k)], out=halved[2**k :])
            table = halved
        mine = power == k
        for begin in (first[mine], last[mine] - 2**k):
            np.maximum.at(table, (begin, label[mine]), score[mine])
    return table


def class_scores(
    outputs: Outputs, b: int, grid: Grid, duration: float, config: DecodeConfig, times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """:class:`ClassScores` of video ``b`` from outputs for the whole of it: (len(times), C) in [0, 1]."""
    features, classes = outputs.mask.shape[1], outputs.classes.shape[-1]
    scores = ClassScores(times, classes, features, grid, config, located=is_located(outputs))
    scores.add(read_outputs(outputs, b, grid, (0.0, duration)))
    return scores.result()


@torch.no_grad()
def run_model(model: torch.nn.Module, features: NDArray[np.float32], device: torch.device) -> Outputs:
    """Outputs of one video or window: features (T, K) -> a batch of one."""
    x = torch.from_numpy(np.ascontiguousarray(features)).to(device)[None]
    outputs: Outputs = model(x, torch.ones(x.shape[:2], dtype=torch.bool, device=device))
    return outputs
