"""What each sub-step should answer, from annotated segments."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from balletal.tal.sequences import Grid, LabelledSequence


@dataclass(frozen=True)
class Targets:
    """Targets of a batch; ``B`` videos padded to ``T`` steps.

    Attributes:
        classes: (B, T, C) float, 1 where a segment of that class is answered for.
        boundaries: (B, T, 2); distances to start and end in sub-steps (``localize``) or the boundaries themselves
            (``paper``), valid where ``positive``.
        positive: (B, T) bool.
    """

    classes: Tensor
    boundaries: Tensor
    positive: Tensor


def assign(
    segments: NDArray[np.float64], grid: Grid, steps: int, radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (step, segment) that answer for each other: centre sampling.

    A step answers for a segment that it lies in, within ``radius`` sub-steps of the middle; of several such segments,
    the shortest. A segment that gets no step this way (shorter than the grid) gets the step nearest to its middle if
    that is not farther than half a sub-step and still free.

    Returns:
        step indices and segment indices, (P,) each; every step at most once.
    """
    if len(segments) == 0 or steps == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    t = grid.centers(steps)[:, None]
    start, end = segments[:, 0], segments[:, 1]
    middle, length = (start + end) / 2, end - start
    allowed = (t >= start) & (t <= end) & (np.abs(t - middle) < radius * grid.step)
    cost = np.where(allowed, length, np.inf)
    owner = np.where(allowed.any(1), cost.argmin(1), -1)
    nearest = np.clip(np.floor((middle - grid.offset) / grid.step).astype(np.int64), 0, steps - 1)
    for segment in np.setdiff1d(np.arange(len(segments)), owner):
        step = nearest[segment]
        if owner[step] == -1 and abs(t[step, 0] - middle[segment]) <= grid.step / 2:
            owner[step] = segment
    positive = np.flatnonzero(owner >= 0)
    return positive, owner[positive]


def localize_targets(
    sequences: list[LabelledSequence], grid: Grid, steps: int, upsample: int, num_classes: int, radius: float
) -> Targets:
    """Targets of the ``localize`` recipe for a batch padded to ``steps`` sub-steps."""
    classes = torch.zeros(len(sequences), steps, num_classes)
    boundaries = torch.zeros(len(sequences), steps, 2)
    positive = torch.zeros(len(sequences), steps, dtype=torch.bool)
    for b, sequence in enumerate(sequences):
        step, segment = assign(sequence.segments, grid, len(sequence.features) * upsample, radius)
        t = grid.centers(steps)[step]
        left = (t - sequence.segments[segment, 0]) / grid.step
        right = (sequence.segments[segment, 1] - t) / grid.step
        classes[b, step, sequence.classes[segment]] = 1.0
        # A step that stands for a segment beside it (shorter than the grid) has a negative distance: none can say so.
        boundaries[b, step] = torch.from_numpy(np.stack([left, right], -1).clip(min=0)).float()
        positive[b, step] = True
    return Targets(classes, boundaries, positive)


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
    return Targets(classes, boundaries, positive)
