from inspect import signature

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from balletal.errors import InputError
from balletal.features.extractor import spec_for
from balletal.tal.config import (
    DEFAULT_STRIDE_S,
    DecodeConfig,
    LossConfig,
    ModelConfig,
    ModelName,
    OptimConfig,
    Recipe,
    recipe,
)
from balletal.tal.training import Training, steps_per_epoch

from .conftest import make_sequences


def small(name: str = "cnn", **optim) -> Recipe:
    settings = {"epochs": 6, "batch_size": 4, "lr": 5e-3, "warmup_epochs": 1, "ema": 0.5} | optim
    model = ModelConfig(name=name, hidden=16, layers=2, upsample=2, substep_dim=16, substep_layers=1, dropout=0.1)
    return Recipe(model=model, optim=OptimConfig(**settings))


def start(settings: Recipe, spec, videos: int = 8) -> Training:
    steps = steps_per_epoch(videos, settings.optim)
    return Training(settings, spec, in_dim=6, num_classes=2, steps_per_epoch=steps)


@pytest.mark.parametrize("name", ["lstm", "cnn", "transformer"])
@pytest.mark.parametrize("options", [{}, {"levels": 2, "head_layers": 1, "bins": 16}])
def test_localize_learns_and_holds_on_unseen_videos(name, options, spec, sequences):
    settings = small(name, epochs=40)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update=options)})
    training = start(settings, spec)
    unseen = make_sequences(3, seed=1)
    before = training.validate(unseen)
    for _ in range(40):
        training.train_epoch(sequences)
    after = training.validate(unseen)
    assert after["class"] < 0.5 * before["class"]
    assert after["boundary"] < 0.5 * before["boundary"]


def test_paper_boundaries_do_not_learn(spec, sequences):
    # Targets in seconds against a sigmoid: the loss stays near the mean square of the annotated times.
    settings = recipe("cnn", "paper").model_copy(
        update={
            "model": ModelConfig(name="cnn", boundary="fraction", hidden=16, layers=3),
            "loss": LossConfig(boundary_unit="seconds"),
        }
    )
    training = start(settings, spec)
    for _ in range(40):
        training.train_epoch(sequences)
    after = training.validate(sequences)
    reachable = np.mean([((s.segments - 1).clip(min=0) ** 2).mean() for s in sequences])
    assert after["boundary"] > 0.9 * reachable
    assert after["class"] < 0.5


@pytest.mark.parametrize("scheduler", ["cosine", "plateau"])
def test_a_resumed_run_equals_an_uninterrupted_one(scheduler, spec, sequences, tmp_path):
    settings = small(scheduler=scheduler)
    whole = start(settings, spec)
    for _ in range(4):
        whole.train_epoch(sequences)
        whole.validate(sequences)
    first = start(settings, spec)
    for _ in range(2):
        first.train_epoch(sequences)
        first.validate(sequences)
    torch.save(first.state(), tmp_path / "state.pt")
    second = start(settings, spec)
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        second.train_epoch(sequences)
        second.validate(sequences)
    assert second.epoch == whole.epoch
    assert second.normalizer == whole.normalizer
    for name, value in whole.averaged.state_dict().items():
        assert torch.equal(value, second.averaged.state_dict()[name]), name


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(spec, sequences):
    def weights(seed):
        training = start(small().model_copy(update={"seed": seed}), spec)
        training.train_epoch(sequences)
        return torch.cat([p.detach().flatten() for p in training.model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_weight_decay_leaves_biases_and_norms_alone(spec):
    decayed, others = start(small(weight_decay=0.1), spec).optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in others["params"])


def test_every_video_is_in_an_epoch_once_and_none_is_an_error():
    optim = OptimConfig(batch_size=16)
    assert steps_per_epoch(33, optim) == 3
    with pytest.raises(InputError, match="training videos"):
        steps_per_epoch(0, optim)


def test_training_survives_videos_without_any_segment(spec, sequences):
    from dataclasses import replace

    empty = [replace(s, segments=np.zeros((0, 2)), classes=np.zeros(0, np.int64)) for s in sequences]
    training = start(small(), spec)
    losses = training.train_epoch(empty)
    assert np.isfinite(list(losses.values())).all()
    assert all(torch.isfinite(p).all() for p in training.model.parameters())


def test_the_paper_has_no_transformer():
    assert recipe("transformer", "localize").model.name == "transformer"
    with pytest.raises(InputError, match="recipe paper: expected a model of the paper's, lstm or cnn"):
        recipe("transformer", "paper")


@pytest.mark.parametrize("model", ["lstm", "cnn", "transformer"])
def test_localize_cuts_coarse_features_finer(model: ModelName) -> None:
    released, windowed = recipe(model, "localize", 2.56), recipe(model, "localize")
    assert (released.model.upsample, windowed.model.upsample) == (8, 2)  # sub-steps of 0.32 and of 0.16 s
    assert recipe(model, "localize", 0.16) == windowed
    if model != "transformer":
        assert recipe(model, "paper", 2.56) == recipe(model, "paper")


def test_recipes_that_could_not_be_used_are_refused_before_training(spec):
    with pytest.raises(ValidationError, match="one answer a feature"):
        ModelConfig(boundary="fraction", upsample=4)
    with pytest.raises(ValidationError, match="multiples of heads, 4"):
        ModelConfig(name="transformer", hidden=30)
    with pytest.raises(InputError, match=r"decode\.window"):
        start(recipe("cnn", "localize").model_copy(update={"decode": DecodeConfig(window=4)}), spec)


def test_tags_are_learnt_beside_the_classes_and_only_where_they_can_be_told(spec):
    settings = small(epochs=40)
    training = Training(settings, spec, in_dim=6, num_classes=2, num_tags=1, steps_per_epoch=2)
    videos, unseen = make_sequences(8, tags=1), make_sequences(3, seed=1, tags=1)
    before = training.validate(unseen)
    for _ in range(40):
        trained = training.train_epoch(videos)
    after = training.validate(unseen)
    assert after["tag"] < 0.5 * before["tag"]  # 0.9 is as low as the share of tagged steps alone could bring it
    assert after["class"] < 0.5 * before["class"]
    assert list(trained) == ["class", "boundary", "quality", "tag", "total"]
    plain = Training(recipe("cnn", "paper"), spec, in_dim=6, num_classes=2, num_tags=1, steps_per_epoch=2)
    assert list(plain.validate(unseen)) == ["class", "boundary", "quality", "total"]


def test_a_recipe_without_tags_of_its_own_is_written_as_before():
    assert "tag_weight" not in Recipe().model_dump(mode="json")["loss"]
    changed = Recipe(loss=LossConfig(tag_weight=0.5))
    assert Recipe.model_validate(changed.model_dump(mode="json")) == changed


def test_a_recipe_is_for_features_as_they_are_made_by_default():
    options = signature(spec_for).parameters
    assert options["stride"].default / options["fps"].default == DEFAULT_STRIDE_S
