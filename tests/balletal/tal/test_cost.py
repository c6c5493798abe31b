import numpy as np
import pytest

from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.labels import LabelSet
from balletal.projection import Moments, fit
from balletal.tal.config import ModelConfig, Recipe
from balletal.tal.cost import measure_cost
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from balletal.video.clips import clip_times

K, HIDDEN, CLASSES = 4, 8, 2
STEPS = 188  # of 0.32 s in a minute


def localizer(spec, model):
    features = np.random.default_rng(0).normal(0, 1, (32, spec.dim))
    moments = Moments(spec.dim)
    moments.update(features)
    config = ModelConfig(name=model, boundary="fraction", hidden=HIDDEN, layers=1)
    labels = LabelSet("two", ("a", "b"))
    made = Localizer("tiny", labels, fit(moments, spec, K), Recipe(model=config), TemporalModel(config, K, CLASSES))
    video = VideoFeatures("v", *clip_times(0, 32, spec), features.astype(np.float32))
    return made, video


@pytest.mark.parametrize(
    ("model", "encoder", "out_dim"),
    [
        # Four gates in each direction; attention: a hidden layer, a score, the weighted mean.
        (
            "lstm",
            2 * 2 * 4 * HIDDEN * (K + HIDDEN) + 2 * 2 * HIDDEN * HIDDEN + 2 * HIDDEN + 2 * 2 * HIDDEN,
            4 * HIDDEN,
        ),
        ("cnn", 2 * 3 * K * HIDDEN, HIDDEN),
    ],
)
def test_the_arithmetic_of_a_minute_is_that_of_the_layers(spec, model, encoder, out_dim):
    made, video = localizer(spec, model)
    cost = measure_cost(made, video, repeats=1)
    assert cost["flops_per_minute"] == STEPS * (encoder + 2 * out_dim * (CLASSES + 2))
    assert cost["parameters"] == sum(p.numel() for p in made.model.parameters())
    assert cost["latency_s"] > 0
    assert cost["device"] == "cpu"


def test_a_video_without_features_is_named(spec):
    made, video = localizer(spec, "cnn")
    empty = VideoFeatures("v", video.start_s[:0], video.end_s[:0], video.features[:0])
    with pytest.raises(InputError, match="video v: expected features"):
        measure_cost(made, empty)
