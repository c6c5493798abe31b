import numpy as np
import pytest
import torch

from balletal.tal.config import DecodeConfig
from balletal.tal.decoding import class_scores, decode
from balletal.tal.models import Outputs, grid_points
from balletal.tal.sequences import Grid
from balletal.tal.targets import localize_targets


def _perfect(sequences, spec, upsample=2):
    """Outputs that say just what the targets want."""
    grid = Grid.of(spec, upsample)
    steps = upsample * max(len(s.features) for s in sequences)
    at, stride = grid_points(steps, 1)
    where = {"at": at.numpy(), "stride": stride.numpy()}
    targets = localize_targets(sequences, grid, upsample, 2, **where, radius=1.5)
    mask = torch.zeros(len(sequences), steps, dtype=torch.bool)
    for b, sequence in enumerate(sequences):
        mask[b, : upsample * len(sequence.features)] = True
    classes = torch.where(targets.classes > 0, 8.0, -8.0)
    return Outputs(classes, targets.boundaries, torch.full((len(sequences), steps), 8.0), mask, at, stride), grid


def test_perfect_outputs_decode_to_the_annotated_segments(spec, sequences):
    outputs, grid = _perfect(sequences, spec)
    for b, sequence in enumerate(sequences):
        segments, scores, classes = decode(outputs, b, grid, sequence.duration, DecodeConfig())
        sure = scores > 0.9
        order = np.argsort(segments[sure, 0])
        assert segments[sure][order] == pytest.approx(sequence.segments, abs=1e-4)
        assert (classes[sure][order] == sequence.classes).all()


def test_detections_are_sorted_bounded_and_within_the_video(spec, sequences):
    torch.manual_seed(0)
    mask = torch.ones(1, 50, dtype=torch.bool)
    outputs = Outputs(torch.randn(1, 50, 3), torch.rand(1, 50, 2) * 30, torch.randn(1, 50), mask, *grid_points(50, 1))
    config = DecodeConfig(max_segments=17, block=4.0)
    segments, scores, _ = decode(outputs, 0, Grid.of(spec, 1), 15.0, config)
    assert len(segments) == 5 * 2  # five blocks of twelve features; two of the 17 a minute each
    assert (np.diff(scores) <= 0).all()
    assert (scores <= 1).all()
    assert (segments[:, 0] >= 0).all()
    assert (segments[:, 1] <= 15.0).all()
    assert (segments[:, 0] < segments[:, 1]).all()


def test_constant_one_one_boundaries_give_nothing():
    # What the published models said of every step: start = end = 1, an empty segment at the video's end.
    answered = torch.ones(1, 9, dtype=torch.bool)
    outputs = Outputs(torch.randn(1, 9, 2), torch.ones(1, 9, 2), torch.zeros(0), answered, *grid_points(9, 1))
    segments, scores, classes = decode(outputs, 0, Grid(0, 1), 60.0, DecodeConfig())
    assert len(segments) == len(scores) == len(classes) == 0


def test_class_scores_are_high_just_where_the_steps_are(spec, sequences):
    outputs, grid = _perfect(sequences, spec)
    for b, sequence in enumerate(sequences):
        times = np.arange(0, sequence.duration, 0.04) + 0.02
        scores = class_scores(outputs, b, grid, sequence.duration, DecodeConfig(), times)
        truth = np.full(len(times), -1)
        for (start, end), label in zip(sequence.segments, sequence.classes, strict=True):
            truth[(times >= start) & (times < end)] = label
        said = np.where(scores.max(1) > 0.5, scores.argmax(1), -1)
        assert (said == truth).mean() > 0.99


def test_class_scores_of_the_paper_recipe_are_the_class_heads(spec):
    logits = torch.tensor([[[0.0, 3.0], [2.0, 0.0]]])
    answered = torch.ones(1, 2, dtype=torch.bool)
    outputs = Outputs(logits, torch.ones(1, 2, 2), torch.zeros(0), answered, *grid_points(2, 1))
    # Features every 0.32 s, the first one stands for 0.16-0.48 s; outside the grid its ends hold.
    scores = class_scores(outputs, 0, Grid.of(spec, 1), 9.0, DecodeConfig(), np.array([0.0, 0.3, 0.6, 5.0]))
    assert scores.argmax(1).tolist() == [1, 1, 0, 0]
    assert scores.sum(1) == pytest.approx(np.ones(4))
