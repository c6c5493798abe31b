"""Windows against the whole sequence, and the reach against gradients."""

import numpy as np
import pytest
import torch

from balletal.errors import InputError
from balletal.projection import Moments, Projection, fit
from balletal.tal.config import DecodeConfig, ModelConfig, OptimConfig, Recipe
from balletal.tal.decoding import run_model
from balletal.tal.models import TemporalModel
from balletal.tal.windows import WindowedModel, Windows, receptive_field

CPU = torch.device("cpu")


def _recipe(name: str, decode: DecodeConfig | None = None, **options) -> Recipe:
    sizes = {"hidden": 8, "layers": 2, "upsample": 2, "substep_dim": 8, "substep_layers": 2, "heads": 2}
    model = ModelConfig(name=name, **sizes | {"reach": 3, "substep_reach": 2} | options)
    return Recipe(model=model, decode=decode or DecodeConfig(), optim=OptimConfig(max_features=40))


def _model(recipe: Recipe) -> TemporalModel:
    torch.manual_seed(0)
    return TemporalModel(recipe.model, in_dim=4, num_classes=3, num_tags=2).eval()


@pytest.fixture
def projection(spec) -> Projection:
    moments = Moments(6)
    moments.update(np.random.default_rng(0).normal(size=(50, 6)))
    return fit(moments, spec, 4)


@pytest.mark.parametrize("name", ["cnn", "transformer"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"upsample": 1, "levels": 3},
        {"upsample": 3, "levels": 3, "head_layers": 2, "bins": 4},
        {"upsample": 8, "substep_layers": 0},
        {"boundary": "fraction", "upsample": 1},
    ],
)
def test_reach_is_how_far_gradients_come_from(name, options):
    recipe = _recipe(name, **options)
    model, far = _model(recipe), receptive_field(recipe.model)
    found = 0
    for seed in range(6):
        torch.manual_seed(seed)
        x = torch.randn(1, 120, 4, requires_grad=True)
        outputs = model(x, torch.ones(1, 120, dtype=torch.bool))
        upsample = recipe.model.upsample if model.located else 1
        unit = 2 ** (recipe.model.levels - 1)
        # All points whose cells lie in [first, first + unit) features, where a window could begin its core.
        first = 60 // unit * unit
        core = (outputs.at > first * upsample) & (outputs.at < (first + unit) * upsample)
        said = outputs.classes[:, core].sum() + outputs.boundaries[:, core].sum()
        (gradient,) = torch.autograd.grad(said, x)
        touched = gradient[0].abs().sum(-1).nonzero()[:, 0]
        found = max(found, first - int(touched.min()), int(touched.max()) - (first + unit - 1))
    assert far is not None
    assert found == far


def test_the_lstm_has_no_reach():
    assert receptive_field(ModelConfig(name="lstm")) is None


@pytest.mark.parametrize("name", ["cnn", "transformer"])
@pytest.mark.parametrize("options", [{}, {"upsample": 1, "levels": 3, "head_layers": 1}, {"upsample": 3, "levels": 2}])
@pytest.mark.parametrize("n", [1, 59, 60, 61, 333])
def test_windows_give_what_the_whole_sequence_gives(name, options, n, projection):
    recipe = _recipe(name, DecodeConfig(window=60), **options)
    model = _model(recipe)
    clips = np.setdiff1d(np.arange(n), [7, 8, 150, 151, 152])
    features = np.random.default_rng(1).normal(size=(len(clips), 6)).astype(np.float32)
    rows = np.zeros((n, 4), np.float32)
    rows[clips] = projection.transform(features)
    whole = run_model(model, rows, CPU)
    reader = WindowedModel(model, projection, Windows.of(recipe))
    windows = [*reader.push(clips, features)]
    windows += [rest] if (rest := reader.rest()) is not None else []
    assert (len(windows) > 1) is (n > 60)

    said = [torch.cat([window.outputs[i] for window in windows], dim) for i, dim in enumerate((1, 1, 1, 1, 1, 0, 0))]
    *_, at, stride = said
    order = np.lexsort((at.numpy(), stride.numpy()))
    real = whole.mask[0]
    assert torch.equal(at[order], whole.at[real])
    assert torch.equal(stride[order], whole.stride[real])
    for i in range(4):
        assert torch.allclose(said[i][:, order], whole[i][:, real], atol=1e-5)


def test_the_windows_of_an_lstm_are_near_to_the_whole_sequence(projection):
    recipe = _recipe("lstm", DecodeConfig(window=60))
    model = _model(recipe)
    features = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    reader = WindowedModel(model, projection, Windows.of(recipe))
    windows = [*reader.push(np.arange(300), features), reader.rest()]
    assert len(windows) == 9
    whole = run_model(model, projection.transform(features), CPU)
    said = torch.cat([window.outputs.classes for window in windows], 1)
    error = (said - whole.classes).std() / whole.classes.std(1).mean()
    assert 0 < error < 0.1  # the summary of a window is not that of the video


def test_windows_by_default():
    # A finite reach: no more context than it takes.
    assert Windows.of(_recipe("cnn")) == Windows(128 + 2 * 4, 4)
    # Points of level 2 are four sub-steps, so two features, apart: context and hop are even.
    assert receptive_field(_recipe("cnn", levels=3, substep_layers=0).model) == 5
    assert Windows.of(_recipe("cnn", levels=3, substep_layers=0)) == Windows(128 + 2 * 6, 6)
    # The lstm: as long as what it was trained on.
    assert Windows.of(_recipe("lstm")) == Windows(40, 10)
    assert Windows.of(_recipe("cnn", boundary="fraction", upsample=1)) == Windows(40, 2)
    assert Windows.of(_recipe("lstm", DecodeConfig(window=101, context=20), levels=3)) == Windows(100, 20)


def test_a_window_that_is_all_context_is_refused():
    with pytest.raises(InputError, match=r"decode.window: expected at least 9 features, found 8"):
        Windows.of(_recipe("cnn", DecodeConfig(window=8)))


def test_a_gap_costs_nothing(projection):
    recipe = _recipe("cnn")
    reader = WindowedModel(_model(recipe), projection, Windows.of(recipe))
    clips = np.array([0, 1, 10**9, 10**9 + 1])
    windows = [*reader.push(clips, np.ones((4, 6), np.float32)), reader.rest()]
    assert len(windows) == 2
    assert [(window.outputs.at.numpy() // 2).tolist() for window in windows] == [
        [0, 0, 1, 1],
        [1e9, 1e9, 1e9 + 1, 1e9 + 1],
    ]
    assert reader.held == 2
