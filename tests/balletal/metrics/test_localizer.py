"""All measures of a small network that was not trained: the contract, not the numbers."""

import json

import jsonschema
import numpy as np
import pytest
import torch

import schemas
from balletal.annotations import Annotations
from balletal.annotations.table import video_table
from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.labels import LabelSet
from balletal.metrics.localizer import evaluate_localizer
from balletal.projection import Moments, fit
from balletal.segments import segment_table
from balletal.tal.config import ModelConfig, Recipe
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from tests.balletal.tal.conftest import SPEC


@pytest.fixture
def localizer() -> Localizer:
    moments = Moments(6)
    moments.update(np.random.default_rng(0).normal(size=(50, 6)))
    recipe = Recipe(model=ModelConfig(name="cnn", hidden=8, layers=2, upsample=2, substep_dim=8))
    torch.manual_seed(0)
    labels = LabelSet("sided", ("TurnRight", "TurnLeft", "Jump"))
    return Localizer("test", labels, fit(moments, SPEC, 4), recipe, TemporalModel(recipe.model, 4, 3))


def video(video_id: str, n: int) -> VideoFeatures:
    clips = np.arange(n)
    features = np.random.default_rng(1).normal(size=(n, 6)).astype(np.float32)
    return VideoFeatures(video_id, clips * 8 / 25, (clips * 8 + 16) / 25, features)


def annotations(*video_ids: str) -> Annotations:
    truth = segment_table("u", [1.0, 3.0], [2.0, 4.0], ["TurnRight", "Jump"])
    return Annotations(truth, video_table({video_id: {"duration": 10.0} for video_id in video_ids}))


def test_metrics_keep_their_schema_and_the_model_runs_once_a_video(localizer, monkeypatch):
    ran = []
    run = TemporalModel.forward
    monkeypatch.setattr(TemporalModel, "forward", lambda self, x, mask: ran.append(x.shape[1]) or run(self, x, mask))
    videos = [video("u", 30), video("nothing", 0), video("v", 20)]
    table, metrics = evaluate_localizer(localizer, videos, annotations("u", "nothing", "v"))
    assert ran == [30, 20]
    jsonschema.validate(json.loads(json.dumps(metrics, allow_nan=False)), schemas.json_schema("metrics"))
    monkeypatch.undo()
    alone = localizer.localize(videos[0], duration=10.0)
    assert len(alone)
    assert table[table["video_id"] == "u"].reset_index(drop=True).equals(alone)
    counted = sum(row[0][tier] for row in metrics["diagnosis"]["counts"].values() for tier in range(10))
    assert 0 < counted <= len(table)
    assert np.sum(metrics["confusion"]["counts"][:3]) == 2
    assert sum(b["count"] for b in metrics["calibration"]["bins"]) == len(table)
    assert sum(b["segments"] for b in metrics["durations"]["bins"]) == 2
    assert metrics["diagnosis"]["average_map"] == pytest.approx(metrics["detection"]["average_map"])


def test_a_model_that_tells_tags_is_measured_on_them(localizer):
    labels = LabelSet("tagged", localizer.labels.labels, ("Backwards",))
    torch.manual_seed(0)
    model = TemporalModel(localizer.recipe.model, 4, 3, 1)
    bundle = Localizer("test", labels, localizer.projection, localizer.recipe, model)
    plain = annotations("u")
    # A step where one is found, with the tag in one case.
    truth = bundle.localize(video("u", 30), duration=10.0, top_k=2).drop(columns=["score", "tags"])
    tag = truth.iloc[:1].assign(label="Backwards")
    _, metrics = evaluate_localizer(bundle, [video("u", 30)], Annotations(truth, plain.videos, tag))
    jsonschema.validate(json.loads(json.dumps(metrics, allow_nan=False)), schemas.json_schema("metrics"))
    assert metrics["tags"]["matched"] == 2
    assert metrics["tags"]["tags"]["Backwards"]["annotated"] >= 1
    _, metrics = evaluate_localizer(bundle, [video("u", 0)], plain)
    jsonschema.validate(json.loads(json.dumps(metrics, allow_nan=False)), schemas.json_schema("metrics"))
    assert metrics["tags"]["matched"] == 0


def test_videos_without_features_are_measured_as_silence(localizer):
    table, metrics = evaluate_localizer(localizer, [video("u", 0)], annotations("u"))
    assert len(table) == 0
    jsonschema.validate(json.loads(json.dumps(metrics, allow_nan=False)), schemas.json_schema("metrics"))
    assert metrics["detection"]["average_map"] == 0.0
    assert metrics["calibration"]["ece"] is None


def test_a_video_of_unknown_duration_is_named(localizer):
    with pytest.raises(InputError, match="video v: expected a duration"):
        evaluate_localizer(localizer, [video("v", 3)], annotations("u"))
    with pytest.raises(InputError, match="at least one video"):
        evaluate_localizer(localizer, [], annotations("u"))
