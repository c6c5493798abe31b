"""What a training step sees of a video instead of the video: a stretch of it, at another tempo, with noise on it."""

from dataclasses import replace

import numpy as np

from balletal.tal.config import Recipe
from balletal.tal.sequences import Grid, LabelledSequence


def augmented(sequence: LabelledSequence, grid: Grid, recipe: Recipe, rng: np.random.Generator) -> LabelledSequence:
    """A video as one training step sees it; the same ``rng`` gives the same.

    At most ``optim.max_features`` features of it, its tempo changed by a factor of at most 1 + ``augment.stretch``,
    noise on its features.
    """
    config = recipe.augment
    if config.stretch:
        sequence = stretch(sequence, grid, (1 + config.stretch) ** rng.uniform(-1, 1))
    sequence = crop(sequence, grid, recipe, rng.random())
    features = sequence.features
    if config.noise:
        spread = features.std(0) if len(features) > 1 else np.zeros(features.shape[1])
        noise = rng.standard_normal(features.shape) * (config.noise * spread)
        features = np.where(features.any(1, keepdims=True), features + noise, 0)  # a gap stays one
    return replace(sequence, features=features.astype(np.float32))


def stretch(sequence: LabelledSequence, grid: Grid, factor: float) -> LabelledSequence:
    """The video ``factor`` times as long: features read between the grid's, by linear interpolation.

    A feature read from beside a gap is none. Each feature still saw its frames at the true tempo: this is for features
    whose window is short against a step.
    """
    n = len(sequence.features)
    if n < 2:
        return sequence
    where = ((np.arange(max(1, round(n * factor))) + 0.5) / factor - 0.5).clip(0, n - 1)
    first = np.floor(where).astype(np.int64).clip(0, n - 2)
    weight = (where - first)[:, None].astype(np.float32)
    features = (1 - weight) * sequence.features[first] + weight * sequence.features[first + 1]
    real = np.asarray(sequence.features.any(1))
    features[~(real[first] & real[first + 1])] = 0
    return replace(
        sequence,
        features=features,
        segments=(sequence.segments - grid.offset) * factor + grid.offset,
        duration=(sequence.duration - grid.offset) * factor + grid.offset,
    )


def crop(sequence: LabelledSequence, grid: Grid, recipe: Recipe, at: float) -> LabelledSequence:
    """A stretch of at most ``optim.max_features`` features, placed by ``at`` in [0, 1), with the segments inside it."""
    extra = len(sequence.features) - recipe.optim.max_features
    if extra <= 0:
        return sequence
    first = int(at * (extra + 1))
    cell = grid.step * recipe.model.upsample
    shift = first * cell
    duration = recipe.optim.max_features * cell
    segments = sequence.segments - shift
    middle = segments.mean(1) - grid.offset
    inside = (middle > 0) & (middle < duration)
    return replace(
        sequence,
        duration=duration + 2 * grid.offset,
        features=sequence.features[first : first + recipe.optim.max_features],
        segments=segments[inside],
        classes=sequence.classes[inside],
        tags=sequence.tags[inside],
    )
