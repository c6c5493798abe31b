import json
from dataclasses import replace

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch

import schemas
from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.labels import LabelSet
from balletal.projection import Moments, fit
from balletal.tal.config import ModelConfig, Recipe
from balletal.tal.localizer import Localizer, localize_videos
from balletal.tal.models import TemporalModel
from balletal.tal.sequences import on_clip_grid


@pytest.fixture
def localizer(spec) -> Localizer:
    rng = np.random.default_rng(0)
    moments = Moments(6)
    moments.update(rng.normal(size=(50, 6)))
    labels = LabelSet("two", ("Pirouette", "GrandJete"))
    recipe = Recipe(model=ModelConfig(name="cnn", hidden=8, layers=2, upsample=2, substep_dim=8))
    torch.manual_seed(0)
    return Localizer(
        "cnn-localize", labels, fit(moments, spec, 4), recipe, TemporalModel(recipe.model, 4, 2), {"data": "none"}
    )


def video(n: int = 30, missing: tuple[int, ...] = ()) -> VideoFeatures:
    clips = np.array([k for k in range(n) if k not in missing])
    features = np.random.default_rng(1).normal(size=(n, 6)).astype(np.float32)[clips]
    return VideoFeatures("v", clips * 8 / 25, (clips * 8 + 16) / 25, features)


def test_a_bundle_comes_back_with_the_same_answers(localizer, tmp_path):
    localizer.save(str(tmp_path / "b"))
    read = Localizer.load(str(tmp_path / "b"))
    assert read.digest == localizer.digest
    assert read.about == {"data": "none"}
    before, after = localizer.localize(video()), read.localize(video())
    assert len(before) > 0
    assert before.equals(after)


def test_the_manifest_keeps_its_schema(localizer, tmp_path):
    localizer.save(str(tmp_path))
    jsonschema.validate(json.loads((tmp_path / "bundle.json").read_text()), schemas.json_schema("bundle"))


def test_detections_keep_their_contract(localizer):
    found = localizer.localize(video(), duration=5.0)
    assert list(found.columns) == ["video_id", "start", "end", "label", "score"]
    assert (found.start >= 0).all()
    assert (found.start < found.end).all()
    assert (found.end <= 5.0).all()
    assert found.score.between(0, 1).all()
    assert found.start.is_monotonic_increasing
    assert set(found.label) <= {"Pirouette", "GrandJete"}
    best = localizer.localize(video(), duration=5.0, top_k=3)
    assert sorted(best.score) == sorted(found.score.nlargest(3))
    cut = float(found.score.median())
    assert len(localizer.localize(video(), duration=5.0, min_score=cut)) == (found.score >= cut).sum()


def test_a_video_without_features_has_no_detections(localizer):
    empty = VideoFeatures("v", np.zeros(0), np.zeros(0), np.zeros((0, 6), np.float32))
    assert len(localizer.localize(empty)) == 0


def test_a_gap_does_not_shift_what_comes_after_it(localizer):
    whole, gapped = video(), video(missing=(4, 5, 6))
    rows = on_clip_grid(gapped, localizer.projection)
    expected = on_clip_grid(whole, localizer.projection)
    expected[4:7] = 0
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_nothing_is_detected_around_the_middle_of_a_gap(localizer):
    missing = tuple(range(10, 20))  # clips 10-19 stand for 3.36 - 6.56 s
    for candidate in (video(), video(missing=missing)):
        times = np.arange(3.4, 6.5, 0.1)
        middles = localizer.localize(candidate, duration=30.0)[["start", "end"]].mean(axis=1)
        inside = ((middles > 3.7) & (middles < 6.2)).sum()
        best = localizer.class_scores(candidate, times).max()
        if candidate.features.shape[0] == 30:
            assert inside > 0
            assert best > 0
        else:
            assert inside == 0


def test_features_that_are_not_finite_are_refused_with_their_row(localizer):
    bad = video()
    bad.features[7, 2] = np.nan
    with pytest.raises(InputError, match="features of v, row 7"):
        localizer.localize(bad)


def test_features_that_are_too_large_are_refused_with_their_video(localizer):
    large = replace(video(), features=np.full((30, 6), 3e38, np.float32))
    narrow = replace(localizer.projection, scale=np.full(6, 1e-3))
    with pytest.raises(InputError, match=f"features of {large.video_id}: expected values that fit float32"):
        on_clip_grid(large, narrow)


def test_features_of_another_length_are_refused(localizer):
    other = VideoFeatures("v", np.zeros(1), np.ones(1), np.zeros((1, 9), np.float32))
    with pytest.raises(InputError, match=r"expected shape \(T, 6\)"):
        localizer.localize(other)


@pytest.mark.parametrize("part", ["bundle.json", "model.safetensors", "projection.safetensors"])
def test_a_bundle_with_a_part_missing_or_damaged_is_refused_by_name(localizer, tmp_path, part):
    localizer.save(str(tmp_path))
    (tmp_path / part).write_bytes(b"\x00 damaged")
    with pytest.raises(InputError, match=part.split(".")[0]):
        Localizer.load(str(tmp_path))
    (tmp_path / part).unlink()
    with pytest.raises(InputError, match=part.split(".")[0]):
        Localizer.load(str(tmp_path))


@pytest.mark.parametrize("key", ["name", "labels", "spec", "recipe", "about", "digest"])
def test_a_bundle_whose_manifest_lacks_a_field_is_refused_by_name(localizer, tmp_path, key):
    localizer.save(str(tmp_path))
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    for changed in ({name: manifest[name] for name in manifest if name != key}, manifest | {key: 3}):
        (tmp_path / "bundle.json").write_text(json.dumps(changed))
        if key == "name" and key in changed:  # what it is called decides no detection
            continue
        with pytest.raises(InputError, match=r"bundle\.json: expected"):
            Localizer.load(str(tmp_path))


@pytest.mark.parametrize("duration", [-1.0, np.nan, np.inf])
def test_a_duration_that_is_none_is_refused(localizer, duration):
    with pytest.raises(InputError, match="duration of v: expected finite seconds"):
        localizer.localize(video(), duration=duration)


def test_a_bundle_that_was_changed_is_refused(localizer, tmp_path):
    localizer.save(str(tmp_path))
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    manifest["recipe"]["decode"]["sigma"] = 0.1
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="content of digest"):
        Localizer.load(str(tmp_path))
    manifest["spec"]["stride"] = 4
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match="they differ in stride: 8 against 4"):
        Localizer.load(str(tmp_path))


def test_a_fine_bundle_answers_coarse_labels(localizer):
    fine = LabelSet(
        "sides", ("Jump", "TurnRight", "Bow", "TurnLeft"), coarse=(("TurnRight", "Turn"), ("TurnLeft", "Turn"))
    )
    recipe = localizer.recipe
    torch.manual_seed(0)
    model = TemporalModel(recipe.model, 4, 4)
    bundle = Localizer("fine", fine, localizer.projection, recipe, model)
    assert bundle.class_names(coarse=True) == ("Jump", "Turn", "Bow")  # those without a coarse name stay
    found = bundle.localize(video(), coarse=True)
    assert "Turn" in set(found.label) <= {"Jump", "Turn", "Bow"}
    times = np.arange(0, 9, 0.1)
    scores, merged = bundle.class_scores(video(), times), bundle.class_scores(video(), times, coarse=True)
    assert merged.shape == (90, 3)
    assert merged[:, [0, 2]] == pytest.approx(scores[:, [0, 2]])
    sides = scores[:, [1, 3]]
    assert (merged[:, 1] >= sides.max(1)).all()
    assert (merged[:, 1] <= np.sqrt((sides**2).sum(1)) + 1e-9).all()
    table, both = bundle.localize_with_scores(video(), times, coarse=True)
    assert table.equals(found)
    assert np.array_equal(both, merged)
    with pytest.raises(InputError, match=r"bundle cnn-localize: expected labels that have coarse names, found .* two"):
        localizer.localize(video(), coarse=True)


def tagged(localizer: Localizer, labels: LabelSet) -> Localizer:
    torch.manual_seed(0)
    model = TemporalModel(localizer.recipe.model, 4, len(labels), len(labels.tags)).eval()
    with torch.no_grad():  # neither all nor nothing has the tag
        model.tag_head.weight.copy_(torch.tensor([1.0, -1.0] * 4))
        model.tag_head.bias.zero_()
    return Localizer("tagged", labels, localizer.projection, localizer.recipe, model)


def test_a_bundle_with_tags_comes_back_and_says_so(localizer, tmp_path):
    bundle = tagged(localizer, LabelSet("two", ("Pirouette", "GrandJete"), tags=("Backwards",)))
    bundle.save(str(tmp_path))
    read = Localizer.load(str(tmp_path))
    assert read.tags == ("Backwards",)
    assert "the tags Backwards" in (tmp_path / "card.md").read_text()
    found = read.localize(video())
    assert {tuple(names) for names in found["tags"]} == {(), ("Backwards",)}
    pd.testing.assert_frame_equal(found, bundle.localize(video()))
    pd.testing.assert_frame_equal(found.drop(columns="tags"), localizer.localize(video()))
    jsonschema.validate(json.loads((tmp_path / "bundle.json").read_text()), schemas.json_schema("bundle"))


def test_a_bundle_that_does_not_tell_the_tags_of_its_label_set_is_read(localizer, tmp_path):
    bundle = replace(localizer, labels=LabelSet("two", ("Pirouette", "GrandJete"), tags=("Backwards",)))
    bundle.save(str(tmp_path))
    read = Localizer.load(str(tmp_path))
    assert read.tags == ()
    assert "tags" not in read.localize(video())


def test_coarse_detections_keep_their_tags(localizer):
    sides = LabelSet(
        "sides", ("TurnRight", "TurnLeft"), ("Backwards",), coarse=(("TurnRight", "Turn"), ("TurnLeft", "Turn"))
    )
    bundle = tagged(localizer, sides)
    found = bundle.localize(video(), coarse=True)
    # Of the points that fine detections are made of, and told there: one segment has one answer.
    fine = {(row.start, row.end): row.tags for row in bundle.localize(video()).itertuples()}
    both = [(fine[row.start, row.end], row.tags) for row in found.itertuples() if (row.start, row.end) in fine]
    assert set(found.label) == {"Turn"}
    assert len(both) > 10
    assert all(one == other for one, other in both)
    assert {tuple(names) for _, names in both} == {(), ("Backwards",)}


def test_class_scores_of_a_long_video_are_those_of_the_whole_sequence(localizer):
    recipe = localizer.recipe
    short = recipe.model_copy(update={"decode": recipe.decode.model_copy(update={"window": 40})})
    parts = Localizer("w", localizer.labels, localizer.projection, short, localizer.model)
    times = np.arange(0, 100, 0.04)
    long = video(300)
    assert parts.class_scores(long, times) == pytest.approx(localizer.class_scores(long, times), abs=1e-5)


def test_several_videos_make_one_table(localizer):
    videos = [video(30), replace(video(20), video_id="w")]
    found = localize_videos(localizer, videos, {v.video_id: 9.0 for v in videos})
    expected = pd.concat([localizer.localize(v, duration=9.0) for v in videos], ignore_index=True)
    pd.testing.assert_frame_equal(found, expected)
    assert set(found["video_id"]) == {v.video_id for v in videos}
    assert list(localize_videos(localizer, [], {}).columns) == list(found.columns)
