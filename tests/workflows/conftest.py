"""A bundle small enough to run everywhere: random weights, tiny pictures, one projected dimension after another."""

from dataclasses import dataclass

import numpy as np
import pytest
import safetensors.torch
import torch

from balletal.backbones.i3d import InceptionI3D
from balletal.backbones.weights import digest, load_state
from balletal.features.extractor import spec_for
from balletal.labels import LabelSet
from balletal.projection import Moments, fit
from balletal.tal.config import ModelConfig, Recipe
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel


@dataclass(frozen=True)
class TinyBundle:
    folder: str
    weights: str
    localizer: Localizer


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """A cnn bundle on I3D features of 32 x 32 pixels, 8 frames every 8 frames at 8 fps: one feature a second."""
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    weights = folder / "i3d.safetensors"
    state = {key: value.contiguous() for key, value in InceptionI3D(num_classes=0).state_dict().items()}
    safetensors.torch.save_file(state, weights)
    spec = spec_for("i3d-rgb", weights=str(weights), fps=8, window=8, stride=8, size=32)
    assert spec.weights == digest(load_state(str(weights)))

    moments = Moments(spec.dim)
    moments.update(np.random.default_rng(0).normal(0, 1, (64, spec.dim)))
    labels = LabelSet.load("annchor-coarse")
    recipe = Recipe(model=ModelConfig(name="cnn", hidden=8, layers=1, upsample=4, substep_dim=8, substep_layers=1))
    projection = fit(moments, spec, 8)
    model = TemporalModel(recipe.model, projection.dim, len(labels)).eval()
    with torch.no_grad():
        model.class_head.bias.zero_()  # an untrained model that answers
    localizer = Localizer("tiny", labels, projection, recipe, model)
    localizer.save(str(folder / "bundle"))
    return TinyBundle(str(folder / "bundle"), str(weights), localizer)
