"""Streams: the same detections however the features come, in bounded memory and with the stated delay."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.labels import LabelSet
from balletal.projection import Moments, fit
from balletal.segments import DETECTION_COLUMNS
from balletal.tal.config import DecodeConfig, ModelConfig, OptimConfig, Recipe
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from tests.balletal.tal.conftest import SPEC

STRIDE_S = 8 / 25


@cache
def localizer(name: str = "cnn", levels: int = 1, boundary: str = "distance", tags: int = 0, **decode) -> Localizer:
    if name == "ensemble":
        each = [localizer(kind, levels, boundary, tags, **decode) for kind in ("cnn", "lstm", "transformer")]
        return Localizer.joined("ensemble", each)
    moments = Moments(6)
    moments.update(np.random.default_rng(0).normal(size=(50, 6)))
    upsample = 2 if boundary == "distance" else 1
    sizes = {
        "hidden": 8,
        "layers": 2,
        "upsample": upsample,
        "substep_dim": 8,
        "heads": 2,
        "reach": 3,
        "substep_reach": 2,
    }
    recipe = Recipe(
        model=ModelConfig(name=name, boundary=boundary, levels=levels, **sizes),
        decode=DecodeConfig(**{"window": 60, "block": 2.0} | decode),
        optim=OptimConfig(max_features=60),
    )
    torch.manual_seed(0)
    model = TemporalModel(recipe.model, 4, 2, tags)
    with torch.no_grad():
        model.class_head.weight.mul_(5)  # an untrained model that is sure of something
        if model.num_tags:  # and of which neither all nor nothing has a tag
            model.tag_head.weight.copy_(torch.tensor([[1.0, -1.0] * 4, [1.0, 1.0, -1.0, -1.0] * 2]))
            model.tag_head.bias.zero_()
    labels = LabelSet("two", ("Pirouette", "GrandJete"), ("Backwards", "Slow")[:tags])
    return Localizer(f"{name}-test", labels, fit(moments, SPEC, 4), recipe, model)


def features(clips: np.ndarray) -> np.ndarray:
    """Noise that depends on the clip alone."""
    return np.array([np.random.default_rng(clip).normal(size=6) for clip in clips], np.float32).reshape(-1, 6)


def joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(parts).drop(columns="id")
    return table.sort_values(["start", "score"], ascending=[True, False], ignore_index=True)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["lstm", "cnn", "transformer", "ensemble"]),
    st.sampled_from([1, 3]),
    st.lists(st.tuples(st.integers(1, 90), st.sampled_from([0, 0, 0, 1, 5, 70])), min_size=1, max_size=6),
    st.sampled_from([None, 20.0, 300.0]),
    st.booleans(),
    st.sampled_from([0, 2]),
)
def test_final_detections_are_those_of_the_whole_video(name, levels, chunks, duration, looks, tags):
    bundle = localizer(name, levels, tags=tags)
    gaps = np.cumsum([gap for _, gap in chunks])
    sizes = [size for size, _ in chunks]
    clips = np.arange(sum(sizes)) + np.repeat(gaps, sizes)
    rows, start_s = features(clips), clips * STRIDE_S
    stream = bundle.stream(duration, video_id="v")
    found, first = [], 0
    for size in sizes:
        found.append(stream.push(rows[first : first + size], start_s[first : first + size]))
        first += size
        if looks:
            assert (stream.provisional()["end"] <= (duration or clips[first - 1] * STRIDE_S + 0.64) + 1e-9).all()
    found.append(stream.finish())
    whole = bundle.localize(VideoFeatures("v", start_s, start_s + 0.64, rows), duration=duration)
    pd.testing.assert_frame_equal(joined(found), whole, check_exact=True)
    ids = pd.concat(found)["id"]
    assert ids.is_unique
    assert ("tags" in whole) is (tags > 0)


@pytest.mark.parametrize("name", ["lstm", "cnn", "transformer", "ensemble"])
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("wanted", [30.0, 20.0, 10.0, 6.0])
def test_a_delay_that_is_wanted(name, levels, wanted):
    bundle = localizer(name, levels, window=None, block=10.0)
    sooner = bundle.sooner(wanted)
    assert sooner.stream().delay_s <= wanted
    assert sooner.stream().delay_s > 0.7 * wanted  # no shorter than it needs to be
    assert bundle.sooner(bundle.stream().delay_s) is bundle
    assert sooner.sooner(wanted) is sooner


def test_a_delay_that_cannot_be():
    assert 1.0 < localizer("cnn", 3).sooner(0.0).stream().delay_s < 5.0
    paper = localizer("cnn", 1, "fraction")
    assert paper.sooner(1.0) is paper


@pytest.mark.parametrize("name", ["lstm", "cnn", "transformer", "ensemble", "paper", "sooner"])
def test_final_detections_come_with_the_stated_delay_and_memory_does_not_grow(name):
    bundle = localizer("cnn", 1, "fraction") if name == "paper" else localizer("cnn" if name == "sooner" else name, 3)
    bundle = bundle.sooner(10.0) if name == "sooner" else bundle
    clips = np.arange(700)
    rows, start_s = features(clips), clips * STRIDE_S
    whole = bundle.localize(VideoFeatures("stream", start_s, start_s + 0.64, rows))
    stream = bundle.stream()
    count, held = 0, []
    for clip in clips:
        count += len(stream.push(rows[clip : clip + 1], start_s[clip : clip + 1]))
        now = start_s[clip] + 0.64
        assert count >= (whole["end"] <= now - stream.delay_s).sum()
        held.append(stream.held)
    assert count > 100
    assert count + len(stream.finish()) == len(whole)
    table = pd.DataFrame(held)
    assert table.iloc[350:]["features"].max() == table.iloc[:350]["features"].max() <= 61
    assert table.iloc[350:]["candidates"].max() <= 1.2 * table.iloc[:350]["candidates"].max()


def test_a_provisional_detection_keeps_its_id_until_it_is_final():
    bundle = localizer("cnn", 1)
    clips = np.arange(400)
    stream = bundle.stream()
    shown: dict[int, str] = {}
    kept = settled = 0
    last: set[int] = set()
    for first in range(0, 400, 10):
        some = clips[first : first + 10]
        final = stream.push(features(some), some * STRIDE_S)
        for row in final.itertuples():
            assert shown.setdefault(row.id, row.label) == row.label
        settled += final["id"].isin(last).sum()
        provisional = stream.provisional()
        assert provisional["id"].is_unique
        assert not set(provisional["id"]) & set(final["id"])
        for row in provisional.itertuples():
            assert shown.setdefault(row.id, row.label) == row.label
        kept += provisional["id"].isin(last).sum()
        last = set(provisional["id"])
    assert kept > 500
    assert settled > 100
    provisional, rest = stream.provisional(), stream.finish()
    assert len(rest)
    columns = [*DETECTION_COLUMNS, "id"]  # nothing came in between: what is provisional becomes final as it is
    pd.testing.assert_frame_equal(provisional[columns], rest[columns])


def test_tags_come_with_every_detection_and_change_nothing_else():
    clips = np.arange(200)
    rows, start_s = features(clips), clips * STRIDE_S
    stream, plain = localizer(tags=2).stream(), localizer().stream()
    for part, other in (
        (stream.push(rows, start_s), plain.push(rows, start_s)),
        (stream.provisional(), plain.provisional()),
        (stream.finish(), plain.finish()),
    ):
        assert set(map(tuple, part["tags"])) == {(), ("Backwards",), ("Slow",), ("Backwards", "Slow")}
        pd.testing.assert_frame_equal(part.drop(columns="tags"), other)
    assert list(stream.provisional().columns) == [*DETECTION_COLUMNS, "id", "tags"]  # with no row


def test_provisional_detections_come_before_the_final_ones():
    stream = localizer("lstm").stream()
    clips = np.arange(20)
    assert len(stream.push(features(clips), clips * STRIDE_S)) == 0
    assert len(stream.provisional()) > 0


def test_scores_below_the_least_one_are_left_out():
    bundle = localizer()
    clips = np.arange(100)
    stream = bundle.stream(min_score=0.1)
    found = [stream.push(features(clips), clips * STRIDE_S), stream.provisional()]
    assert min(len(part) for part in found) > 0
    assert min(part["score"].min() for part in found) >= 0.1


@pytest.mark.parametrize(
    ("rows", "start_s", "match"),
    [
        (np.zeros((2, 5)), [4.0, 4.32], r"expected shape \(T, 6\)"),
        (np.zeros((2, 6)), [4.0], r"for T times, found \(2, 6\), 1 times"),
        (np.full((1, 6), np.nan), [4.0], "features of s, row 3: expected finite values"),
        (np.zeros((2, 6)), [4.0, 4.0], "times of s, row 4: expected ascending"),
        (np.zeros((1, 6)), [0.64], "times of s, row 3: expected ascending"),
        (np.zeros((1, 6)), [-1.0], "finite seconds from 0 on"),
        (np.zeros((1, 6)), [np.inf], "finite seconds from 0 on"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(rows, start_s, match):
    stream = localizer().stream(video_id="s")
    clips = np.arange(3)
    stream.push(features(clips), clips * STRIDE_S)
    before = stream.provisional()
    with pytest.raises(InputError, match=match):
        stream.push(rows, start_s)
    assert stream.provisional().equals(before)


def test_a_finished_stream_takes_nothing():
    stream = localizer().stream(video_id="s")
    assert len(stream.finish()) == 0
    for call in (stream.finish, lambda: stream.push(np.zeros((1, 6)), [0.0])):
        with pytest.raises(InputError, match="stream of s: expected nothing after its end"):
            call()
    assert len(stream.provisional()) == 0
