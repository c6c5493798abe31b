import numpy as np
import pytest
import torch

from balletal.tal.config import DecodeConfig
from balletal.tal.decoding import Decoder, class_scores, decode, read_outputs, temper
from balletal.tal.models import Outputs, grid_points
from balletal.tal.nms import soft_nms
from balletal.tal.sequences import Grid
from balletal.tal.targets import localize_targets

from .conftest import make_sequences


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
    quality = torch.full((len(sequences), steps), 8.0)
    tags = torch.where(targets.tags > 0, 8.0, -8.0)
    return Outputs(classes, targets.boundaries, quality, tags, mask, at, stride), grid


def test_perfect_outputs_decode_to_the_annotated_segments(spec, sequences):
    outputs, grid = _perfect(sequences, spec)
    for b, sequence in enumerate(sequences):
        segments, scores, classes, _ = decode(outputs, b, grid, sequence.duration, DecodeConfig())
        sure = scores > 0.9
        order = np.argsort(segments[sure, 0])
        assert segments[sure][order] == pytest.approx(sequence.segments, abs=1e-4)
        assert (classes[sure][order] == sequence.classes).all()


def test_a_detection_has_the_tags_of_the_candidate_that_wins(spec):
    sequences = make_sequences(4, tags=1)
    outputs, grid = _perfect(sequences, spec)
    for b, sequence in enumerate(sequences):
        found = decode(outputs, b, grid, sequence.duration, DecodeConfig())
        sure = found.take(found.scores > 0.9)
        order = np.argsort(sure.segments[:, 0])
        assert np.array_equal(sure.tags[order] > 0.5, sequence.tags)
    # Where many overlap: as told at the point that said this segment, whatever NMS did to its score.
    answers = read_outputs(_busy(300), 0, Grid(0.0, 0.1), (0.0, 30.0))
    told = dict(zip(map(tuple, answers.segments), answers.tags[:, 0], strict=True))
    found = decode(_busy(300), 0, Grid(0.0, 0.1), 100.0, DecodeConfig(block=10.0))
    whole = [tuple(segment) in told for segment in found.segments]  # not cut at an end
    assert sum(whole) > 100
    kept = found.take(np.array(whole))
    assert [told[tuple(segment)] for segment in kept.segments] == kept.tags[:, 0].tolist()


def test_detections_are_sorted_bounded_and_within_the_video(spec, sequences):
    torch.manual_seed(0)
    mask = torch.ones(1, 50, dtype=torch.bool)
    said = torch.randn(1, 50, 3), torch.rand(1, 50, 2) * 30, torch.randn(1, 50), torch.zeros(1, 50, 0)
    outputs = Outputs(*said, mask, *grid_points(50, 1))
    config = DecodeConfig(max_segments=17, block=4.0)
    segments, scores, *_ = decode(outputs, 0, Grid.of(spec, 1), 15.0, config)
    assert len(segments) == 5 * 2  # five blocks of twelve features; two of the 17 a minute each
    assert (np.diff(scores) <= 0).all()
    assert (scores <= 1).all()
    assert (segments[:, 0] >= 0).all()
    assert (segments[:, 1] <= 15.0).all()
    assert (segments[:, 0] < segments[:, 1]).all()


def test_constant_one_one_boundaries_give_nothing():
    # What the published models said of every step: start = end = 1, an empty segment at the video's end.
    answered = torch.ones(1, 9, dtype=torch.bool)
    said = torch.randn(1, 9, 2), torch.ones(1, 9, 2), torch.zeros(0), torch.zeros(1, 9, 0)
    outputs = Outputs(*said, answered, *grid_points(9, 1))
    found = decode(outputs, 0, Grid(0, 1), 60.0, DecodeConfig())
    assert [len(column) for column in found] == [0, 0, 0, 0]


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
    outputs = Outputs(logits, torch.ones(1, 2, 2), torch.zeros(0), torch.zeros(1, 2, 0), answered, *grid_points(2, 1))
    # Features every 0.32 s, the first one stands for 0.16-0.48 s; outside the grid its ends hold.
    scores = class_scores(outputs, 0, Grid.of(spec, 1), 9.0, DecodeConfig(), np.array([0.0, 0.3, 0.6, 5.0]))
    assert scores.argmax(1).tolist() == [1, 1, 0, 0]
    assert scores.sum(1) == pytest.approx(np.ones(4))


def _busy(steps: int, classes: int = 2, length: float = 6.0) -> Outputs:
    """Answers of which each overlaps many others."""
    torch.manual_seed(0)
    mask = torch.ones(1, steps, dtype=torch.bool)
    boundaries = torch.rand(1, steps, 2) * length
    said = torch.randn(1, steps, classes), boundaries, torch.randn(1, steps), torch.randn(1, steps, 1)
    return Outputs(*said, mask, *grid_points(steps, 1))


def test_blocks_leave_no_seams():
    outputs, grid = _busy(1200), Grid(0.0, 0.1)
    config = DecodeConfig(block=10.0, max_segments=10**6, candidates=10**6)
    found = decode(outputs, 0, grid, 120.0, config)
    # One NMS over the whole video, class by class.
    answers = read_outputs(outputs, 0, grid, (0.0, 120.0))
    segments = answers.segments.clip(0.0, 120.0)
    for label in range(2):
        expected, scores, _ = soft_nms(
            segments, answers.scores[:, label], sigma=config.sigma, min_score=config.min_score
        )
        mine = found.labels == label
        assert len(scores) == mine.sum() > 1000
        said, wanted = (
            {tuple(s): p for s, p in zip(*x, strict=True)}
            for x in ((found.segments[mine], found.scores[mine]), (expected.tolist(), scores))
        )
        assert said.keys() == wanted.keys()
        assert max(abs(said[s] - wanted[s]) for s in wanted) < 1e-3


@pytest.mark.parametrize(("point", "segment"), [(0, (0, 20)), (19, (0, 30)), (20, (10, 38)), (39, (20, 38))])
def test_a_segment_reaches_as_far_as_the_neighbouring_blocks(point, segment):
    outputs = _busy(40)._replace(boundaries=torch.full((1, 40, 2), 1000.0), mask=torch.arange(40)[None] == point)
    segments = decode(outputs, 0, Grid(0.0, 1.0), 38.0, DecodeConfig(block=10.0)).segments
    assert {tuple(s) for s in segments.tolist()} == {segment}


def test_limits_are_a_blocks():
    config = DecodeConfig(block=10.0, max_segments=12, min_score=0.0)
    grid = Grid(0.0, 0.1)
    found = decode(_busy(600), 0, grid, 60.0, config)
    assert len(found.scores) == 12
    middles = found.segments.mean(1)
    assert (np.bincount((middles // 10).astype(int)) > 0).all()
    few = decode(
        _busy(600, length=0.4), 0, grid, 60.0, config.model_copy(update={"candidates": 1, "max_segments": 200})
    )
    assert len(few.scores) == 6


def test_a_block_is_finished_when_its_neighbours_are_answered():
    outputs, grid = _busy(100), Grid(0.0, 1.0)
    decoder = Decoder(grid, DecodeConfig(block=10.0, max_segments=600), located=True)
    decoder.add(read_outputs(outputs, 0, grid, (0.0, 100.0)))
    assert len(decoder.finish(19.0, None).scores) == 0
    first = decoder.finish(20.0, None)
    assert 0 < len(first.scores) <= 2 * 10
    assert len(decoder.finish(20.0, None).scores) == 0
    held = decoder.held
    rest = decoder.copy().finish(np.inf, 100.0)
    assert decoder.held == held  # a copy's end is not its own
    whole = decode(outputs, 0, grid, 100.0, DecodeConfig(block=10.0, max_segments=600))
    assert sorted([*first.scores, *rest.scores]) == sorted(whole.scores)


def test_a_temperature_changes_scores_not_their_order():
    cold, plain, hot = (
        decode(_busy(100), 0, Grid(0.0, 0.1), 10.0, DecodeConfig(temperature=t)) for t in (0.5, 1.0, 2.0)
    )
    for other, t in ((cold, 0.5), (hot, 2.0)):
        assert np.array_equal(other.segments, plain.segments)
        logit = np.log(plain.scores / (1 - plain.scores)) / t
        assert other.scores == pytest.approx(1 / (1 + np.exp(-logit)))
    for t in (0.01, 100.0):
        assert temper(np.array([0.0, 0.5, 1.0]), t).tolist() == [0.0, 0.5, 1.0]
    times = np.arange(0, 10, 0.1)
    scores = [class_scores(_busy(100), 0, Grid(0.0, 0.1), 10.0, DecodeConfig(temperature=t), times) for t in (1.0, 2.0)]
    assert scores[1] == pytest.approx(temper(scores[0], 2.0))


def test_probabilities_of_merged_classes_add_up():
    outputs = _busy(50, classes=3)
    outputs = outputs._replace(quality=torch.full((1, 50), 30.0))  # of 1, so that a score is the root of a probability
    fine = read_outputs(outputs, 0, Grid(0.0, 1.0), (0.0, 50.0)).scores ** 2
    merged = read_outputs(outputs, 0, Grid(0.0, 1.0), (0.0, 50.0), np.array([0, 1, 0])).scores ** 2
    assert merged[:, 0] == pytest.approx((fine[:, 0] + fine[:, 2]).clip(max=1.0))
    assert merged[:, 1] == pytest.approx(fine[:, 1])
    assert (fine[:, 0] + fine[:, 2]).max() > 1.0 >= merged.max()


def test_class_scores_are_those_of_the_best_candidate_that_covers_a_moment():
    outputs, grid, times = _busy(200), Grid(0.0, 0.1), np.sort(np.random.default_rng(0).uniform(-1, 21, 300))
    answers = read_outputs(outputs, 0, grid, (0.0, 20.0))
    covers = (answers.segments[:, :1] <= times) & (times < answers.segments[:, 1:])  # (points, times)
    expected = (covers[..., None] * answers.scores[:, None]).max(0)
    assert class_scores(outputs, 0, grid, 20.0, DecodeConfig(), times) == pytest.approx(expected)
