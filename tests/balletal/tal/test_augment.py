from dataclasses import replace

import numpy as np
import pytest

from balletal.tal.augment import augmented, crop, stretch
from balletal.tal.config import AugmentConfig, ModelConfig, OptimConfig, Recipe
from balletal.tal.sequences import Grid

from .conftest import make_sequences


def test_long_videos_are_cropped_with_their_segments(spec):
    sequences = make_sequences(1, tags=3)
    settings = Recipe(optim=OptimConfig(max_features=10), model=ModelConfig(upsample=2))
    grid = Grid.of(spec, 2)
    video = sequences[0]
    for at in (0.0, 0.5, 0.999):
        part = crop(video, grid, settings, at)
        assert len(part.features) == 10
        first = next(i for i in range(len(video.features)) if (video.features[i] == part.features[0]).all())
        shift = first * 8 / 25
        for segment, label, tags in zip(part.segments, part.classes, part.tags, strict=True):
            original = np.flatnonzero(np.isclose(video.segments[:, 0], segment[0] + shift))
            assert len(original) == 1
            assert video.classes[original[0]] == label
            assert np.array_equal(video.tags[original[0]], tags)
    assert crop(video, grid, Recipe(model=ModelConfig(upsample=2)), 0.5) is video


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3, 2.0])
def test_a_stretched_video_shows_its_steps_where_they_then_are(spec, sequences, factor):
    grid = Grid.of(spec, 1)
    video = sequences[0]
    made = stretch(video, grid, factor)
    assert len(made.features) == round(len(video.features) * factor)
    assert np.diff(made.segments) == pytest.approx(np.diff(video.segments) * factor)
    assert made.duration - made.segments[-1, 1] >= 0
    t = grid.centers(len(made.features))
    for (start, end), label in zip(made.segments, made.classes, strict=True):
        sure = grid.step * max(1, factor)  # features beside a boundary mix both sides
        inside = (t > start + sure) & (t < end - sure)
        assert (made.features[inside, label] > 1.5).all()
    if factor == 1.0:
        assert made.features == pytest.approx(video.features)


def test_gaps_stay_gaps(spec, sequences):
    features = sequences[0].features.copy()
    features[7:10] = 0
    video = replace(sequences[0], features=features)
    settings = Recipe(augment=AugmentConfig(noise=0.3))
    made = augmented(video, Grid.of(spec, 1), settings, np.random.default_rng(0))
    assert np.flatnonzero(~made.features.any(1)).tolist() == [7, 8, 9]
    longer = stretch(video, Grid.of(spec, 1), 2.0)
    assert set(range(14, 20)) <= set(np.flatnonzero(~longer.features.any(1)).tolist()) <= set(range(12, 22))


def test_the_same_draw_gives_the_same_video_and_another_draw_another(spec, sequences):
    settings = Recipe(augment=AugmentConfig(stretch=0.3, noise=0.1))
    one, same, other = (
        augmented(sequences[0], Grid.of(spec, 1), settings, np.random.default_rng(seed)).features for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert one.shape != other.shape or not np.array_equal(one, other)
    assert augmented(sequences[0], Grid.of(spec, 1), Recipe(), np.random.default_rng(0)).features == pytest.approx(
        sequences[0].features
    )


def test_a_video_of_one_feature_is_left_as_long_as_it_is(spec, sequences):
    video = replace(sequences[0], features=sequences[0].features[:1])
    settings = Recipe(augment=AugmentConfig(stretch=0.5, noise=0.5))
    assert len(augmented(video, Grid.of(spec, 1), settings, np.random.default_rng(0)).features) == 1
