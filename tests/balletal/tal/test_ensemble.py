"""Several models that answer as one: what the mean is of, which models fit together, the bundle they become."""

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch

import schemas
from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.labels import LabelSet
from balletal.projection import Moments, fit
from balletal.tal.config import ModelConfig, OptimConfig, Recipe
from balletal.tal.decoding import run_model
from balletal.tal.ensemble import Ensemble
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from balletal.tal.windows import Windows, receptive_field

SIZES = {"hidden": 8, "layers": 2, "upsample": 2, "substep_dim": 8, "heads": 2, "reach": 3, "substep_reach": 2}


def model(seed: int = 0, in_dim: int = 4, tags: int = 1, **more) -> TemporalModel:
    torch.manual_seed(seed)
    return TemporalModel(ModelConfig(**SIZES | {"name": "cnn"} | more), in_dim, 2, tags).eval()


def localizer(spec, called: str, seed: int = 0, tags: int = 0, **more) -> Localizer:
    moments = Moments(6)
    moments.update(np.random.default_rng(0).normal(size=(50, 6)))
    recipe = Recipe(model=ModelConfig(**SIZES | {"name": "cnn"} | more), optim=OptimConfig(max_features=60), seed=seed)
    labels = LabelSet("two", ("Pirouette", "GrandJete"), ("Backwards",)[:tags])
    return Localizer(called, labels, fit(moments, spec, 4), recipe, model(seed, tags=tags, **more), {"data": called})


@pytest.fixture
def video() -> VideoFeatures:
    start = np.arange(40) * 8 / 25
    return VideoFeatures("v", start, start + 16 / 25, np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32))


def test_the_ensemble_says_the_mean_of_its_members():
    members = [model(seed, name=name) for seed, name in enumerate(("cnn", "lstm", "transformer"))]
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    x[4] = 0  # a gap
    each = [run_model(member, x, torch.device("cpu")) for member in members]
    joined = run_model(Ensemble(members), x, torch.device("cpu"))
    for part in ("classes", "boundaries", "quality", "tags"):
        mean = np.mean([getattr(outputs, part).numpy() for outputs in each], axis=0)
        np.testing.assert_allclose(getattr(joined, part).numpy(), mean, atol=1e-6, err_msg=part)
    assert not joined.mask[0, 8:10].any()
    assert joined.mask.sum() == 16


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"upsample": 4}, "upsample 4"),
        ({"levels": 2}, "levels 2"),
        ({"in_dim": 5}, "5 components"),
        ({"tags": 0}, "0 tags"),
        ({"boundary": "fraction", "upsample": 1}, "fractions"),
    ],
)
def test_members_that_do_not_fit_are_named(other, found):
    with pytest.raises(InputError, match=f"member 2: .*{found}"):
        Ensemble([model(), model(**other)])


def test_windows_suit_every_member():
    cnn, transformer, lstm = (ModelConfig(**SIZES | {"name": name}) for name in ("cnn", "transformer", "lstm"))
    recipe = Recipe(model=cnn, optim=OptimConfig(max_features=60))
    assert receptive_field(cnn) < receptive_field(transformer)
    assert Windows.of(recipe, (cnn, transformer)) == Windows.of(Recipe(model=transformer, optim=recipe.optim))
    assert Windows.of(recipe, (cnn, lstm)) == Windows.of(Recipe(model=lstm, optim=recipe.optim))


def test_a_bundle_of_several_comes_back_with_the_same_answers(spec, video, tmp_path):
    parts = [localizer(spec, "a"), localizer(spec, "b", 1, name="lstm").with_temperature(2.0)]
    joined = Localizer.joined("both", parts)
    joined.save(str(tmp_path))
    read = Localizer.load(str(tmp_path))
    assert read.digest == joined.digest
    assert [recipe.model.name for recipe in read.members] == ["cnn", "lstm"]
    assert read.about["members"] == [{"name": one.name, "digest": one.digest} for one in parts]
    assert read.localize(video).equals(joined.localize(video))
    assert not joined.localize(video).equals(parts[0].localize(video))
    jsonschema.validate(json.loads((tmp_path / "bundle.json").read_text()), schemas.json_schema("bundle"))


def test_one_alone_and_twice_the_same_change_nothing_and_joined_ones_join_again(spec, video):
    one, other = localizer(spec, "a", tags=1), localizer(spec, "b", 1, tags=1)
    for parts in ([one], [one, one]):
        assert Localizer.joined("same", parts).localize(video).equals(one.localize(video))
    flat = Localizer.joined("flat", [one, other, other])
    nested = Localizer.joined("nested", [one, Localizer.joined("two", [other, other])])
    assert nested.localize(video).equals(flat.localize(video))
    assert len(nested.members) == 3


def test_bundles_of_other_labels_or_projections_are_refused(spec):
    one = localizer(spec, "a")
    for other in (LabelSet("three", ("A", "B", "C")), LabelSet("two", ("GrandJete", "Pirouette"))):
        said = rf"member b: expected the labels of a, two \(Pirouette, GrandJete\), found {other.name} \("
        with pytest.raises(InputError, match=said):
            Localizer.joined("x", [one, replace(one, name="b", labels=other)])
    moments = Moments(6)
    moments.update(np.random.default_rng(5).normal(size=(50, 6)))
    with pytest.raises(InputError, match="member b: expected the projection of a"):
        Localizer.joined("x", [one, replace(one, name="b", projection=fit(moments, spec, 4))])
