from dataclasses import replace

import numpy as np
import pytest
import torch

from balletal.segments import tiou
from balletal.tal.losses import focal, localize_loss, paper_loss, tiou_1d
from balletal.tal.models import Outputs, grid_points
from balletal.tal.sequences import Grid
from balletal.tal.targets import Targets, assign, duration_edges, localize_targets, paper_targets

from .conftest import make_sequences

AT, STRIDE = np.arange(40) * 0.1 + 0.05, np.full(40, 0.1)


def points(steps: int, levels: int = 1) -> dict[str, np.ndarray]:
    at, stride = grid_points(steps, levels)
    return {"at": at.numpy(), "stride": stride.numpy()}


def test_points_near_the_middle_answer_for_a_segment():
    point, segment = assign(np.array([[1.0, 2.0]]), AT, STRIDE, radius=1.2)
    assert AT[point] == pytest.approx([1.45, 1.55])
    assert segment.tolist() == [0, 0]


def test_the_shortest_of_overlapping_segments_wins():
    point, segment = assign(np.array([[0.0, 3.0], [1.3, 1.7]]), AT, STRIDE, radius=1.5)
    assert set(segment[np.isin(AT[point].round(2), [1.45, 1.55])]) == {1}


def test_a_segment_shorter_than_the_grid_gets_its_nearest_point():
    # Released features: 2.56 s a step, a pirouette of 0.6 s between two middles.
    at = np.arange(10) * 2.56 + 1.28
    point, segment = assign(np.array([[0.2, 0.8]]), at, np.full(10, 2.56), radius=1.5)
    assert point.tolist() == [0]
    assert segment.tolist() == [0]


def test_no_segments_and_no_points_give_no_pairs():
    assert len(assign(np.zeros((0, 2)), AT, STRIDE, radius=1.5)[0]) == 0
    assert len(assign(np.array([[0.0, 1.0]]), AT[:0], STRIDE[:0], radius=1.5)[0]) == 0


def test_a_level_answers_for_the_segments_of_its_durations():
    at, stride = (x.numpy() for x in grid_points(40, 3))
    segments = np.array([[0.5, 0.8], [1.0, 1.6], [2.0, 3.5]])
    point, segment = assign(segments, at * 0.1, stride * 0.1, radius=1.5, edges=[0.4, 1.0])
    assert set(segment) == {0, 1, 2}
    assert stride[point].tolist() == [2**i for i in segment]


def test_levels_share_the_durations_out():
    durations = np.random.default_rng(0).lognormal(size=999)
    edges = duration_edges(durations, 3)
    assert np.bincount(np.searchsorted(edges, durations), minlength=3) == pytest.approx([333] * 3, abs=1)
    assert duration_edges(durations, 1) == []
    assert duration_edges(np.zeros(0), 2) == [np.inf]


@pytest.mark.parametrize("levels", [1, 2])
def test_localize_targets_give_the_segment_back(spec, sequences, levels):
    grid = Grid.of(spec, 2)
    where = points(2 * max(len(s.features) for s in sequences), levels)
    targets = localize_targets(sequences, grid, 2, 2, **where, radius=1.5, edges=[1.1][: levels - 1])
    for b, sequence in enumerate(sequences):
        i = np.flatnonzero(targets.positive[b].numpy())
        t = grid.offset + where["at"][i] * grid.step
        assert set(where["stride"][i]) == {levels}  # of 1.2 s, all of them
        left, right = targets.boundaries[b, i].numpy().T * grid.step
        said = np.stack([t - left, t + right], -1)
        best = tiou(said, sequence.segments)
        assert best.max(1) == pytest.approx(np.ones(len(i)), abs=1e-5)
        assert set(best.argmax(1)) == set(range(len(sequence.segments)))
        assert (targets.classes[b, i].argmax(1).numpy() == sequence.classes[best.argmax(1)]).all()
        assert targets.classes[b].sum() == len(i)


def test_paper_targets_in_seconds_and_as_fractions(spec, sequences):
    grid = Grid.of(spec, 1)
    seconds = paper_targets(sequences[:1], grid, 40, 2, unit="seconds")
    fraction = paper_targets(sequences[:1], grid, 40, 2, unit="fraction")
    assert seconds.positive.sum() > 0
    assert seconds.boundaries.max() > 1  # out of a sigmoid's reach: the published failure
    assert torch.allclose(fraction.boundaries * sequences[0].duration, seconds.boundaries, atol=1e-4)


def test_tiou_of_distances_equals_tiou_of_segments():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 3, (2, 50, 2))
    segments = [np.stack([-x[:, 0], x[:, 1]], -1) for x in (a, b)]
    iou, penalty = tiou_1d(torch.from_numpy(a), torch.from_numpy(b))
    assert iou.numpy() == pytest.approx(np.diag(tiou(*segments)))
    middle = [s.mean(1) for s in segments]
    enclosing = np.maximum(segments[0][:, 1], segments[1][:, 1]) - np.minimum(segments[0][:, 0], segments[1][:, 0])
    assert penalty.numpy() == pytest.approx(((middle[0] - middle[1]) / enclosing) ** 2)


def test_focal_with_gamma_0_is_weighted_cross_entropy():
    logits, targets = torch.tensor([0.3, -1.2]), torch.tensor([1.0, 0.0])
    p = logits.sigmoid()
    expected = torch.stack([-0.25 * p[0].log(), -0.75 * (1 - p[1]).log()])
    assert torch.allclose(focal(logits, targets, alpha=0.25, gamma=0.0), expected)


def _outputs(b: int, t: int, c: int, mask: torch.Tensor) -> Outputs:
    torch.manual_seed(0)
    made = [torch.randn(b, t, c), torch.rand(b, t, 2), torch.randn(b, t), torch.zeros(b, t, 0)]
    return Outputs(*(x.requires_grad_() for x in made), mask, *grid_points(t, 1))


def test_padding_and_its_content_do_not_reach_the_loss(spec, sequences):
    grid, steps = Grid.of(spec, 1), 60
    targets = localize_targets(sequences[:2], grid, 1, 2, **points(steps), radius=1.5)
    mask = torch.zeros(2, steps, dtype=torch.bool)
    for b in range(2):
        mask[b, : len(sequences[b].features)] = True
    weights = {"alpha": 0.25, "gamma": 2.0, "quality_weight": 0.5, "boundary_weight": 1.0}
    outputs = _outputs(2, steps, 2, mask)
    loss = localize_loss(outputs, targets, **weights)["total"]
    other = outputs._replace(
        classes=torch.where(mask[..., None], outputs.classes, torch.full_like(outputs.classes, 50.0))
    )
    assert torch.equal(localize_loss(other, targets, **weights)["total"], loss)


@pytest.mark.parametrize("recipe", ["localize", "paper"])
def test_a_batch_without_any_segment_has_a_finite_loss_and_gradient(spec, sequences, recipe):
    empty = [replace(s, segments=np.zeros((0, 2)), classes=np.zeros(0, np.int64)) for s in sequences[:2]]
    mask = torch.ones(2, 40, dtype=torch.bool)
    outputs = _outputs(2, 40, 2, mask)
    if recipe == "localize":
        targets = localize_targets(empty, Grid.of(spec, 1), 1, 2, **points(40), radius=1.5)
        loss = localize_loss(outputs, targets, alpha=0.25, gamma=2, quality_weight=0.5, boundary_weight=1)["total"]
        assert loss > 0  # background is learnt
    else:
        loss = paper_loss(outputs, paper_targets(empty, Grid.of(spec, 1), 40, 2, unit="seconds"))["total"]
        assert loss == 0
    loss.backward()
    assert torch.isfinite(outputs.classes.grad).all()


def test_tags_are_learnt_at_positive_points_alone(spec):
    sequences = make_sequences(2, tags=2)
    targets = localize_targets(sequences, Grid.of(spec, 1), 1, 2, **points(40), radius=1.5)
    assert 0 < targets.tags.sum() < targets.tags[targets.positive].numel()
    assert not targets.tags[~targets.positive].any()
    outputs = _outputs(2, 40, 2, torch.ones(2, 40, dtype=torch.bool))._replace(
        tags=torch.zeros(2, 40, 2, requires_grad=True)
    )
    weights = {"alpha": 0.25, "gamma": 2.0, "quality_weight": 0.5, "boundary_weight": 1.0}
    losses = localize_loss(outputs, targets, **weights, tag_weight=0.3)
    assert losses["tag"].item() == pytest.approx(np.log(2) * 2 * int(targets.positive.sum()), rel=1e-5)
    without = localize_loss(outputs, targets, **weights)["total"]
    assert (losses["total"] - without).item() == pytest.approx(0.3 * losses["tag"].item(), rel=1e-3)
    losses["total"].backward()
    assert torch.equal(outputs.tags.grad.any(-1), targets.positive)


def test_perfect_boundaries_cost_nothing():
    positive = torch.ones(1, 3, dtype=torch.bool)
    boundaries = torch.rand(1, 3, 2) + 0.1
    targets = Targets(torch.ones(1, 3, 1), boundaries, torch.ones(1, 3, 1), positive)
    sure = torch.full((1, 3, 1), 30.0)
    outputs = Outputs(sure, boundaries.clone(), sure[..., 0], sure, positive, *grid_points(3, 1))
    losses = localize_loss(outputs, targets, alpha=0.25, gamma=2, quality_weight=1, boundary_weight=1, tag_weight=1)
    assert losses["total"].item() == pytest.approx(0, abs=1e-5)
