"""What each sub-step should answer, from annotated segments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from balletal.tal.sequences import Grid, LabelledSequence


@dataclass(frozen=True)
class Targets:
    """Targets of a batch; ``B`` videos at the ``P`` points of a model.

    Attributes:
        classes: (B, P, C) float, 1 where a segment of that class is answered for.
        boundaries: (B, P, 2); distances to start and end in sub-steps (``localize``) or the boundaries themselves
            (``paper``), valid where ``positive``.
        tags: (B, P, G) float, 1 where the segment answered for has that tag; valid where ``positive``.
        positive: (B, P) bool.
    """

    classes: Tensor
    boundaries: Tensor
    tags: Tensor
    positive: Tensor


def duration_edges(durations: NDArray[np.float64], levels: int) -> list[float]:
    """Durations, in seconds, at which one level of a pyramid hands over to the next: quantiles.

    Returns:
        ``levels - 1`` ascending values; without any duration, none is ever reached.
    """
    if len(durations) == 0:
        return [float("inf")] * (levels - 1)
    return [float(q) for q in np.quantile(durations, np.arange(1, levels) / levels)]


def assign(
    segments: NDArray[np.float64],
    at: NDArray[np.floating],
    stride: NDArray[np.floating],
    *,
    radius: float,
    edges: Sequence[float] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (point, segment) that answer for each other: centre sampling within the level of a segment's duration.

    A point answers for a segment that it lies in, within ``radius`` strides of the middle; of several such segments,
    the shortest. A segment that gets no point this way (shorter than the grid) gets the point of its level nearest to
    its middle if that is not farther than half a stride and still free.

    Args:
        segments: (N, 2) seconds.
        at, stride: (P,) seconds; where the points lie, and how far apart those of their level do.
        edges: from :func:`duration_edges`.

    Returns:
        point indices and segment indices, each as many as there are pairs; every point at most once.
    """
    if len(segments) == 0 or len(at) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    start, end = segments[:, 0], segments[:, 1]
    middle, length = (start + end) / 2, end - start
    level = np.rint(np.log2(stride / stride.min())).astype(np.int64)
    own = level[:, None] == np.searchsorted(np.asarray(edges), length, side="left")
    t, reach = at[:, None], stride[:, None]
    off = np.abs(t - middle)
    allowed = own & (t >= start) & (t <= end) & (off < radius * reach)
    cost = np.where(allowed, length, np.inf)
    owner = np.where(allowed.any(1), cost.argmin(1), -1)
    for segment in np.setdiff1d(np.arange(len(segments)), owner):
        point = int(np.where(own[:, segment], off[:, segment], np.inf).argmin())
        if owner[point] == -1 and own[point, segment] and off[point, segment] <= stride[point] / 2:
            owner[point] = segment
    positive = np.flatnonzero(owner >= 0)
    return positive, owner[positive]


def localize_targets(
    sequences: list[LabelledSequence],
    grid: Grid,
    upsample: int,
    num_classes: int,
    *,
    at: NDArray[np.float64],
    stride: NDArray[np.int64],
    radius: float,
    edges: Sequence[float] = (),
) -> Targets:
    """Targets of the ``localize`` recipe at the points of a batch (``at``, ``stride`` as in the models' outputs)."""
    classes = torch.zeros(len(sequences), len(at), num_classes)
    boundaries = torch.zeros(len(sequences), len(at), 2)
    tags = torch.zeros(len(sequences), len(at), sequences[0].tags.shape[1])
    positive = torch.zeros(len(sequences), len(at), dtype=torch.bool)
    times = grid.offset + at * grid.step
    for b, sequence in enumerate(sequences):
        real = np.flatnonzero(at < len(sequence.features) * upsample)
        near, segment = assign(sequence.segments, times[real], stride[real] * grid.step, radius=radius, edges=edges)
        point = real[near]
        left = (times[point] - sequence.segments[segment, 0]) / grid.step
        right = (sequence.segments[segment, 1] - times[point]) / grid.step
        classes[b, point, sequence.classes[segment]] = 1.0
        # A point that stands for a segment beside it (shorter than the grid) has a negative distance: none can say so.
        boundaries[b, point] = torch.from_numpy(np.stack([left, right], -1).clip(min=0)).float()
        tags[b, point] = torch.from_numpy(sequence.tags[segment]).float()
        positive[b, point] = True
    return Targets(classes, boundaries, tags, positive)


def paper_targets(sequences: list[LabelledSequence], grid: Grid, steps: int, num_classes: int, *, unit: str) -> Targets:
    """Targets of the ``paper`` recipe: each feature takes the segment that covers most of its cell.

    Args:
        unit: ``seconds`` as published (targets that a sigmoid cannot reach), or ``fraction`` of the video.
    """
    classes = torch.zeros(len(sequences), steps, num_classes)
    boundaries = torch.zeros(len(sequences), steps, 2)
    positive = torch.zeros(len(sequences), steps, dtype=torch.bool)
    for b, sequence in enumerate(sequences):
        n = len(sequence.features)
        if len(sequence.segments) == 0:
            continue
        cell = grid.centers(n)[:, None]
        start, end = sequence.segments.T
        covered = np.minimum(cell + grid.step / 2, end) - np.maximum(cell - grid.step / 2, start)
        step = np.flatnonzero(covered.max(1) > 0)
        segment = covered[step].argmax(1)
        said = sequence.segments[segment] / (1.0 if unit == "seconds" else sequence.duration)
        classes[b, step, sequence.classes[segment]] = 1.0
        boundaries[b, step] = torch.from_numpy(said).float()
        positive[b, step] = True
    return Targets(classes, boundaries, torch.zeros(len(sequences), steps, 0), positive)
