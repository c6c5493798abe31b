import numpy as np
import pytest
import torch

from balletal.tal.config import DecodeConfig
from balletal.tal.decoding import class_probabilities, decode
from balletal.tal.models import Outputs
from balletal.tal.sequences import Grid
from balletal.tal.targets import localize_targets


def _perfect(sequences, spec, upsample=2):
    """Outputs that say just what the targets want."""
    grid = Grid.of(spec, upsample)
    steps = upsample * max(len(s.features) for s in sequences)
    targets = localize_targets(sequences, grid, steps, upsample, 2, 1.5)
    mask = torch.zeros(len(sequences), steps, dtype=torch.bool)
    for b, sequence in enumerate(sequences):
        mask[b, : upsample * len(sequence.features)] = True
    classes = torch.where(targets.classes > 0, 8.0, -8.0)
    return Outputs(classes, targets.boundaries, torch.full((len(sequences), steps), 8.0), mask), grid


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
    outputs = Outputs(torch.randn(1, 50, 3), torch.rand(1, 50, 2) * 30, torch.randn(1, 50), mask)
    config = DecodeConfig(max_segments=17)
    segments, scores, _ = decode(outputs, 0, Grid.of(spec, 1), 5.0, config)
    assert len(segments) == 17
    assert (np.diff(scores) <= 0).all()
    assert (scores <= 1).all()
    assert (segments[:, 0] >= 0).all()
    assert (segments[:, 1] <= 5.0).all()
    assert (segments[:, 0] < segments[:, 1]).all()


def test_constant_one_one_boundaries_give_nothing():
    # What the published models said of every step: start = end = 1, an empty segment at the video's end.
    outputs = Outputs(torch.randn(1, 9, 2), torch.ones(1, 9, 2), torch.zeros(0), torch.ones(1, 9, dtype=torch.bool))
    segments, scores, classes = decode(outputs, 0, Grid(0, 1), 60.0, DecodeConfig())
    assert len(segments) == len(scores) == len(classes) == 0


def test_class_probabilities_leave_padding_out(spec, sequences):
    outputs, _ = _perfect(sequences[:2], spec)
    assert len(class_probabilities(outputs, 1)) == 2 * len(sequences[1].features)
