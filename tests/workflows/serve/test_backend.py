import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from ray.exceptions import ActorDiedError

from balletal.backbones.i3d import InceptionI3D
from balletal.errors import InputError
from balletal.features.extractor import Extractor, spec_for
from balletal.features.store import FeatureStore
from balletal.features.units import plan_units
from balletal.tal.localizer import Localizer
from balletal.video.clips import clip_times
from balletal.video.decode import read_frames
from balletal.video.probe import VideoInfo, probe
from tests.workflows.conftest import TinyBundle
from workflows.serve.backend import LocalBackend, Model, Part, as_stored, live_features, pick
from workflows.serve.bundles import load_bundles, weights_of
from workflows.serve.deployments import HandleBackend
from workflows.serve.problems import Problem


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> VideoInfo:
    return probe(str(make_video(tmp_path_factory.mktemp("videos") / "long.mp4", 40, fps=8)))


@pytest.fixture(scope="module")
def backend(tiny_bundle: TinyBundle) -> LocalBackend:
    return LocalBackend([tiny_bundle.localizer], tiny_bundle.weights, "cpu")


def localize(backend: LocalBackend, info: VideoInfo, **wanted: Any) -> pd.DataFrame:
    model = asyncio.run(backend.models())[0]
    return asyncio.run(backend.localize(model.id, info.uri, info, Part(**wanted))).segments


@pytest.fixture(scope="module")
def whole(backend: LocalBackend, long_video: VideoInfo) -> pd.DataFrame:
    return localize(backend, long_video)


def test_an_answer_is_that_of_a_store_digit_for_digit(
    tiny_bundle: TinyBundle, long_video: VideoInfo, whole: pd.DataFrame, tmp_path: Path
) -> None:
    spec = tiny_bundle.localizer.spec
    store = FeatureStore.create(str(tmp_path / "store"), spec)
    rows = Extractor(spec, tiny_bundle.weights, "cpu").extract_video(long_video).features
    for unit in plan_units("v", long_video, spec):
        store.write_unit("v", unit.segment, unit.first_clip, rows[unit.first_clip :][: unit.clips])
    (video,) = store.iter_videos(["v"])
    expected = tiny_bundle.localizer.localize(video, duration=long_video.duration)
    assert len(whole) > 50
    pd.testing.assert_frame_equal(whole.drop(columns="video_id"), expected.drop(columns="video_id"), check_exact=True)


@pytest.mark.parametrize(("start", "end", "top_k"), [(15.0, 20.5, None), (None, 5.0, 3), (36.25, None, None)])
def test_a_part_is_what_the_whole_says_of_it(
    backend: LocalBackend,
    long_video: VideoInfo,
    whole: pd.DataFrame,
    start: float | None,
    end: float | None,
    top_k: int | None,
) -> None:
    part = localize(backend, long_video, start=start, end=end, top_k=top_k)
    low, high = start or 0.0, end or long_video.duration
    expected = whole[(whole["end"] > low) & (whole["start"] < high)]
    assert 10 < len(expected) < len(whole)
    if top_k is not None:
        expected = expected.nlargest(top_k, "score").sort_values("start")
    columns = ["start", "end", "label", "score"]
    pd.testing.assert_frame_equal(part[columns], expected[columns].reset_index(drop=True), check_exact=True)


def test_a_part_is_looked_at_with_its_context_alone(tiny_bundle: TinyBundle, long_video: VideoInfo) -> None:
    spec = tiny_bundle.localizer.spec  # a clip a second
    assert Part().clips(long_video, spec) == (0, 40)
    assert Part(39.9).clips(long_video, spec) == (29, 40)
    first, stop = Part(15.0, 20.5).clips(long_video, spec)
    start_s, end_s = clip_times(first, stop - first, spec)
    assert start_s[0] <= 5.0 <= end_s[0]
    assert start_s[-1] <= 30.5 < end_s[-1]


def test_models_are_picked_by_name_and_version(tiny_bundle: TinyBundle) -> None:
    one = Model.of(tiny_bundle.localizer)
    assert (one.name, one.version) == ("tiny", tiny_bundle.localizer.digest[:12])
    told = replace(tiny_bundle.localizer, about={"version": "1.2"})
    two = Model.of(told)
    assert two.id == "tiny@1.2"
    assert (pick([one, two], "tiny"), pick([one, two], one.id), pick([one, two], "tin")) == (two, one, None)


def test_bundles_that_cannot_be_told_apart(tiny_bundle: TinyBundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another version"):
        load_bundles([tiny_bundle.folder] * 2, [tiny_bundle.weights])
    with pytest.raises(InputError, match="at least one"):
        load_bundles([])
    replace(tiny_bundle.localizer, name="a/b").save(str(tmp_path))
    with pytest.raises(InputError, match="letters"):
        load_bundles([str(tmp_path)], [tiny_bundle.weights])


def test_weights_find_their_bundle(tiny_bundle: TinyBundle, tmp_path: Path) -> None:
    spec, other = tiny_bundle.localizer.spec, str(tmp_path / "other.safetensors")
    state = safetensors.torch.load_file(tiny_bundle.weights)
    state["Conv3d_1a_7x7.bn.bias"] += 1
    safetensors.torch.save_file(state, other)
    assert weights_of(spec, None) is None
    assert weights_of(spec, [other, tiny_bundle.weights]) == [tiny_bundle.weights]
    assert weights_of(spec, [other]) == [other]  # for the extractor to refuse


def test_bundles_share_what_extracts(tiny_bundle: TinyBundle, long_video: VideoInfo) -> None:
    other: Localizer = replace(tiny_bundle.localizer, about={"version": "2"})
    both = LocalBackend([tiny_bundle.localizer, other], tiny_bundle.weights, "cpu")
    assert len(both._extractors) == 1
    models = asyncio.run(both.models())
    assert asyncio.run(both.localizer(models[1].id)) is other
    pixels = np.zeros((16, 32, 32, 3), np.uint8)
    made = asyncio.run(both.features(models[0].id, pixels))
    assert made.shape == (2, other.spec.dim)
    np.testing.assert_array_equal(made, made.astype(np.float16).astype(np.float32))


def test_live_features_of_a_flow_stream_are_those_of_the_video(long_video: VideoInfo, tmp_path: Path) -> None:
    weights = str(tmp_path / "flow.safetensors")
    torch.manual_seed(0)
    state = InceptionI3D(num_classes=0, in_channels=2).state_dict()
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, weights)
    options: dict[str, Any] = {"fps": 8, "window": 8, "stride": 8, "size": 32, "mode": "windowed", "crop": "center"}
    extractor = Extractor(spec_for("i3d-flow", weights=weights, **options), weights, "cpu")
    whole = extractor.extract_video(long_video, (0, 3)).features
    pixels = read_frames(long_video.uri, 8, 0, 3 * 8 + 1, crop="center", size=32).pixels
    np.testing.assert_array_equal(live_features(extractor, pixels, 3), as_stored(whole, extractor.spec))


def test_a_replica_that_dies_is_told_as_busy(tiny_bundle: TinyBundle) -> None:
    """Which clients take for what it is: a reason to ask again."""

    async def dies(*_: Any) -> None:
        raise ActorDiedError

    dead: Any = SimpleNamespace(
        **dict.fromkeys(("video", "frames", "localize", "bundle"), SimpleNamespace(remote=dies))
    )
    model = Model.of(tiny_bundle.localizer)
    backend = HandleBackend({model.spec.spec_id: dead}, dead, [model])
    asked = (
        backend.localize(model.id, "video", VideoInfo("video", 1.0, 25.0, 64, 48, "h264", 0, 25, False)),
        backend.infer(model.id, np.zeros((2, model.spec.dim), np.float32), np.arange(2.0)),
        backend.features(model.id, np.zeros((9, 32, 32, 3), np.uint8)),
        backend.localizer(model.id),
    )
    for one in asked:
        with pytest.raises(Problem) as told:
            asyncio.run(one)
        assert (told.value.status, told.value.urn) == (503, "busy")
