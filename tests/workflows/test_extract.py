"""Extraction: from tiny videos to the store, through failures, changes and a killed run."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import workflows.extract
from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import ForbiddenError, InputError, VideoError
from balletal.features.extractor import Extractor
from balletal.features.store import FeatureStore
from balletal.features.units import FRAMES_PER_UNIT
from balletal.video.decode import read_frames
from balletal.video.guard import GuardError
from balletal.video.probe import probe
from balletal.video.track import TRACKER
from tests.drill.machines import title
from tests.workflows.faults_common import processes, until
from workflows.cli import build
from workflows.cluster import ray_session
from workflows.extract import _probe_some, extract
from workflows.extract_stages import Share, _Backbone, _decode, _write, share
from workflows.sources import Source, list_sources

MakeVideo = Callable[..., Path]
WINDOWED = ["--mode", "windowed", "--crop", "center"]


def no_ray(*_: object) -> None:
    raise AssertionError("Ray was started for nothing")


def keys(store: FeatureStore) -> list[tuple[str, int, int]]:
    """(video_id, segment, clip) of every row, as any reader of Parquet sees them."""
    table = pd.concat([pd.read_parquet(uri, columns=["video_id", "segment", "clip"]) for uri in store.files()])
    return sorted(zip(table["video_id"], table["segment"], table["clip"], strict=True))


@pytest.mark.ray
def test_extracts_every_good_video_once(
    tmp_path: Path,
    make_video: MakeVideo,
    spec: FeatureSpec,
    weights: str,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    videos, uri = tmp_path / "videos", str(tmp_path / "store")
    make_video(videos / "a.mp4", 2.0, seed=1)
    make_video(videos / "more" / "b.mkv", 1.5, fps=30, seed=2)
    make_video(videos / "short.mp4", 0.4, seed=3)
    (videos / "broken.mp4").write_bytes(b"no video")
    (videos / "notes.txt").write_text("no video either")
    first = extract(str(videos), uri, spec=spec, weights=weights)
    assert (first["videos"], first["videos_failed"]) == (4, 1)
    assert first["segments"] == {"total": 3, "done": 3, "skipped": 0, "failed": 0}
    store = FeatureStore.open(uri)
    assert keys(store) == [("a", 0, 0), ("a", 0, 1), ("a", 0, 2), ("b", 0, 0), ("b", 0, 1), ("short", 0, 0)]
    expected = Extractor(spec, weights).extract(read_frames(str(videos / "a.mp4"), 25, 0, 50, size=32).pixels)
    np.testing.assert_allclose(store.read("a").features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(store.read("a").start_s, [0, 0.64, 1.28])
    table = store.videos().set_index("video_id")
    assert sorted(table.index) == ["a", "b", "short"]
    assert table.loc["b", "uri"] == str(videos / "more" / "b.mkv")
    assert table.loc["b", "duration"] == pytest.approx(1.5, abs=0.01)
    errors = store.errors()
    assert list(errors[["video_id", "segment", "stage", "type"]].iloc[0]) == ["broken", -1, "probe", "not-a-video"]

    with monkeypatch.context() as patch:  # a second run has nothing to do, and starts nothing for it
        patch.setattr(workflows.extract, "ray_session", no_ray)
        again = extract(str(videos), uri, spec=spec, weights=weights)
    assert again["segments"] == {"total": 3, "done": 0, "skipped": 3, "failed": 0}
    assert (again["videos_failed"], again["rows"]) == (1, 0)

    make_video(videos / "broken.mp4", 1.0, seed=4)  # mended
    make_video(videos / "a.mp4", 1.0, seed=5)  # replaced: nothing of the old one may stay
    third = extract(str(videos), uri, spec=spec, weights=weights)
    assert third["segments"] == {"total": 4, "done": 2, "skipped": 2, "failed": 0}
    assert third["videos_failed"] == 0
    assert store.errors().empty
    assert keys(store) == [("a", 0, 0), ("b", 0, 0), ("b", 0, 1), ("broken", 0, 0), ("short", 0, 0)]

    (videos / "a.mp4").write_bytes(b"no video any more")
    for session in (ray_session, no_ray):
        monkeypatch.setattr(workflows.extract, "ray_session", session)
        fourth = extract(str(videos), uri, spec=spec, weights=weights)
        assert fourth["segments"] == {"total": 3, "done": 0, "skipped": 3, "failed": 0}
        assert fourth["videos_failed"] == 1
        assert store.video_ids() == ["b", "broken", "short"]


@pytest.mark.ray
def test_cuts_change_no_value_and_a_damaged_video_keeps_what_decodes(
    tmp_path: Path,
    make_video: MakeVideo,
    spec: FeatureSpec,
    weights: str,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FRAMES_PER_UNIT, "windowed", 40)  # two clips a unit
    spec = spec.replace(stride=12)
    videos, uri = tmp_path / "videos", str(tmp_path / "store")
    whole = make_video(videos / "whole.mp4", 4.0)
    content = whole.read_bytes()
    (videos / "cut.mp4").write_bytes(content[: int(len(content) * 0.6)])
    summary = extract(str(videos), uri, spec=spec, weights=weights)
    store = FeatureStore.open(uri)
    clips = (100 - 16) // 12 + 1
    assert summary["segments"]["total"] == 2 * -(-clips // 3)
    expected = Extractor(spec, weights).extract(read_frames(str(whole), 25, 0, 100, size=32).pixels)
    assert len(expected) == clips
    np.testing.assert_allclose(store.read("whole").features, expected, rtol=1e-4, atol=1e-5)
    kept = store.read("cut")
    assert 0 < len(kept.features) < clips
    np.testing.assert_allclose(kept.features, expected[: len(kept.features)], rtol=1e-4, atol=1e-5)
    errors = store.errors()
    assert set(errors["video_id"]) == {"cut"}
    assert set(errors["stage"]) == {"damage", "decode"}  # the unit that is cut, and one of which nothing is left
    assert set(errors["type"]) <= {"truncated", "corrupt"}
    assert summary["videos_failed"] == 1
    assert summary["segments"]["failed"] > 0

    with monkeypatch.context() as patch:
        patch.setattr(workflows.extract, "ray_session", no_ray)
        again = extract(str(videos), uri, spec=spec, weights=weights)
    assert again["segments"] == summary["segments"] | {"done": 0, "skipped": summary["segments"]["done"]}


@pytest.mark.ray
@pytest.mark.parametrize("mode", ["windowed", "dense"])
def test_the_dancer_is_tracked_once_a_video(
    tmp_path: Path, spec: FeatureSpec, weights: str, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    videos, uri = tmp_path / "videos", str(tmp_path / "store")
    videos.mkdir()
    _write_mover(videos / "mover.mp4", seconds=6.0)
    _write_mover(videos / "still.mp4", seconds=2.0, speed=0.0)
    (videos / "broken.mp4").write_bytes(b"no video")
    monkeypatch.setitem(FRAMES_PER_UNIT, mode, 60)
    spec = spec.replace(crop="dancer", tracker=TRACKER, mode=mode)
    summary = extract(str(videos), uri, spec=spec, weights=weights)
    assert summary["videos_failed"] == 1
    assert summary["segments"]["failed"] == 0
    assert summary["segments"]["total"] > 2
    store = FeatureStore.open(uri)
    track = store.track("mover", 0, 150)
    assert len(track) == 150
    assert track.mover.all()
    assert np.ptp(track.center[:, 0]) > 0.2  # it follows
    assert not store.track("still", 0, 50).mover.any()
    extractor = Extractor(spec, weights)
    for name in ("mover", "still"):
        alone = extractor.extract_video(probe(str(videos / f"{name}.mp4"))).features
        np.testing.assert_allclose(store.read(name).features, alone, rtol=1e-4, atol=1e-4)
    run = files.read_json(summary["run"])
    assert run["rows"] == summary["rows"] == len(keys(store))
    assert set(run["work"]["stages"]) == {"track", "decode", "backbone", "write"}
    assert run["work"]["video_hours"] == pytest.approx(summary["rows"] * spec.stride_s / 3600, abs=1e-5)

    (track_file,) = Path(uri).rglob("tracks/*/mover.parquet")
    before = track_file.stat().st_mtime_ns
    next(iter(Path(uri).rglob("mover-00001.parquet"))).unlink()
    again = extract(str(videos), uri, spec=spec, weights=weights)
    assert (again["segments"]["done"], track_file.stat().st_mtime_ns) == (1, before)
    _write_mover(videos / "mover.mp4", seconds=2.0)  # another video: its dancer is elsewhere
    extract(str(videos), uri, spec=spec, weights=weights)
    assert len(store.track("mover", 0, 150)) == 50


def test_mirror_is_an_option_of_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(*_: object, mirror: bool, **__: object) -> None:
        raise InputError("mirror", expected="a look", found=str(mirror))

    monkeypatch.setattr(workflows.extract, "spec_for", seen)
    for more, mirror in (([], "False"), (["--mirror"], "True")):
        command = ["extract", "--videos", "v", "--store", str(tmp_path), *more]
        with pytest.raises(InputError, match=mirror):
            CliRunner().invoke(build(), command, catch_exceptions=False)


def _write_mover(path: Path, seconds: float, speed: float = 40.0) -> None:
    """A textured square that goes to and fro over a textured ground, pixels a second."""
    random = np.random.default_rng(0)
    ground = random.integers(90, 130, (90, 160, 3), dtype=np.uint8)
    figure = random.integers(0, 255, (24, 16, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for n in range(round(seconds * 25)):
            x = 20 + round(abs((speed * n / 25 + 100) % 200 - 100))
            picture = ground.copy()
            picture[30:54, x : x + 16] = figure
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.ray
def test_a_damaged_unit_is_done_again_when_its_features_are_not_there(
    tmp_path: Path, make_video: MakeVideo, spec: FeatureSpec, weights: str, ray_cluster: None
) -> None:
    """A run that is killed between its error row and its file, or whose disk is full, is resumed."""
    content = make_video(tmp_path / "whole.mp4", 4.0).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(len(content) * 0.6)])
    store = FeatureStore.create(str(tmp_path / "store"), spec)
    about = {"video_id": "cut", "uri": str(tmp_path / "cut.mp4"), "duration": 4.0}
    unit = about | {"segment": 0, "first_clip": 0, "clips": 6}
    decoded = _decode(store, unit | {"version": files.version(unit["uri"])})
    assert decoded["damage"]
    made = _Backbone(store, 1, {"weights": weights})(decoded)
    assert store.errors().empty
    written = _write(store, made)
    assert written["rows"] == len(store.read("cut").features) > 0
    assert list(store.errors()["type"]) == ["truncated"]
    expected = store.read("cut").features

    Path(store.files()[0]).unlink()
    again = extract(unit["uri"], store.uri, spec=spec, weights=weights)
    assert again["segments"] == {"total": 1, "done": 1, "skipped": 0, "failed": 0}
    np.testing.assert_array_equal(store.read("cut").features, expected)
    again = extract(unit["uri"], store.uri, spec=spec, weights=weights)
    assert again["segments"] == {"total": 1, "done": 0, "skipped": 1, "failed": 0}


def test_features_of_a_file_that_was_replaced_meanwhile_are_not_written(
    tmp_path: Path, make_video: MakeVideo, spec: FeatureSpec, weights: str
) -> None:
    video = make_video(tmp_path / "a.mp4", 1.0)
    store = FeatureStore.create(str(tmp_path / "store"), spec)
    about = {"video_id": "a", "uri": str(video), "duration": 1.0, "version": files.version(str(video))}
    made = _Backbone(store, 1, {"weights": weights})(
        _decode(store, about | {"segment": 0, "first_clip": 0, "clips": 1})
    )
    make_video(video, 2.0, seed=1)
    assert _write(store, made)["failed"]
    assert not store.units()
    assert list(store.errors()["type"]) == ["changed"]


@pytest.mark.ray
def test_a_killed_run_resumes_without_a_duplicate_or_missing_row(
    tmp_path: Path, make_video: MakeVideo, spec: FeatureSpec, weights: str, ray_cluster: None
) -> None:
    videos, uri = tmp_path / "videos", str(tmp_path / "store")
    for i in range(8):
        make_video(videos / f"v{i:02d}.mp4", 1.3, seed=i)
    spec = spec.replace(size=224)  # as the command makes them
    store = FeatureStore.create(uri, spec)
    command = [sys.executable, "-m", "workflows.extract", "--videos", str(videos), "--store", uri]
    command += ["--backbone", "i3d-rgb", "--weights", weights, "--stride", "16", "--dtype", "float32", *WINDOWED]
    with (
        (tmp_path / "log").open("wb") as log,
        tempfile.TemporaryDirectory(dir="/tmp", prefix="k", ignore_cleanup_errors=True) as scratch,
    ):
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"RAY_TMPDIR": scratch})
        assert until(store.units, driver), (tmp_path / "log").read_text()
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        # Ray's workers end some time after their driver; its agents, which write nothing of ours, a minute later.
        until(lambda: all("Agent" in title(one) for one in processes(scratch)), seconds=120)
    before = {file.name: file.read_bytes() for file in Path(uri).rglob("v*.parquet")}
    assert 0 < len(before) < 8

    summary = extract(str(videos), uri, spec=spec, weights=weights)
    assert summary["segments"] == {"total": 8, "done": 8 - len(before), "skipped": len(before), "failed": 0}
    assert keys(store) == [(f"v{i:02d}", 0, clip) for i in range(8) for clip in range(2)]
    assert all(file.read_bytes() == before[file.name] for file in Path(uri).rglob("v*.parquet") if file.name in before)
    assert len(store.videos()) == 8


def test_two_videos_of_one_name_need_their_path(tmp_path: Path, make_video: MakeVideo, weights: str) -> None:
    for folder in ("one", "two"):
        make_video(tmp_path / "videos" / folder / "same.mp4", 0.2)
    command = ["extract", "--videos", str(tmp_path / "videos"), "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(build(), [*command, "--backbone", "i3d-rgb", "--weights", weights])
    assert result.exit_code == 2
    assert "--video-id path" in result.output
    sources = list_sources(str(tmp_path / "videos"), (".mp4",), video_ids="path")
    assert [source.video_id for source in sources] == ["one/same.mp4", "two/same.mp4"]


def test_a_video_id_that_belongs_to_another_file_is_an_error(
    tmp_path: Path, make_video: MakeVideo, spec: FeatureSpec
) -> None:
    store = FeatureStore.create(str(tmp_path / "store"), spec)
    store.write_videos([{"video_id": "a", "uri": "/elsewhere/a.mp4", "version": "1"}])
    make_video(tmp_path / "videos" / "a.mp4", 0.2)
    with pytest.raises(InputError, match=r"video 'a' in store .*/elsewhere/a\.mp4"):
        extract(str(tmp_path / "videos"), store.uri, spec=spec)


def test_no_videos_are_an_error(tmp_path: Path, spec: FeatureSpec) -> None:
    with pytest.raises(InputError, match="nothing there"):
        extract(str(tmp_path / "nowhere"), str(tmp_path / "store"), spec=spec)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"files ending in \.mp4, .* found none"):
        extract(str(tmp_path / "empty"), str(tmp_path / "store"), spec=spec)
    (tmp_path / "empty" / f"{'x' * 190}.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="1 to 180 bytes"):
        extract(str(tmp_path / "empty"), str(tmp_path / "store"), spec=spec)


def test_one_video_that_may_not_be_read_is_its_own_fault_and_a_machine_without_processes_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Source("a", "s3://b/a.mp4", "1")
    raised: list[Exception] = [ForbiddenError("s3://b/a.mp4", expected="a place", found="no permission (403)")]

    def guarded(*_: object, **__: object) -> None:
        raise raised[0]

    monkeypatch.setattr(workflows.extract, "guarded", guarded)
    ((_, found),) = _probe_some([source])
    assert isinstance(found, VideoError)
    assert found.kind == "unreadable"
    raised[0] = GuardError("no processes left")
    with pytest.raises(GuardError):
        _probe_some([source])


def test_the_list_of_errors_shows_names_as_they_are(tmp_path: Path, spec: FeatureSpec) -> None:
    store = FeatureStore.create(str(tmp_path / "store"), spec)
    for name in ("x[/y]", "[b]", ":dog:"):
        error = VideoError(name, "empty", expected="a video", found="0 bytes")
        store.write_error(name, -1, uri=name, version="1", stage="probe", error=error)
    result = CliRunner().invoke(build(), ["errors", "--store", store.uri])
    assert result.exit_code == 0
    assert all(name in result.output for name in ("x[/y]", "[b]", ":dog:"))


def test_features_that_cannot_be_made_are_told_before_any_work(tmp_path: Path, spec: FeatureSpec) -> None:
    with pytest.raises(InputError, match="fps of at most 1000"):
        spec.replace(fps=1e9)
    with pytest.raises(InputError, match="at most 1024 frames"):
        extract(str(tmp_path), str(tmp_path / "store"), spec=spec.replace(window=8_000_000))
    with pytest.raises(InputError, match="price: expected a number, found inf"):
        extract(str(tmp_path), str(tmp_path / "store"), spec=spec, price=float("inf"))
    with pytest.raises(InputError, match="features that this extractor makes"):
        extract(str(tmp_path), str(tmp_path / "store"), spec=spec.replace(mode="imported"))


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 16, 64])
@pytest.mark.parametrize("memory", [2e9, 16e9, 1e12])
@pytest.mark.parametrize("nodes", [1, 3])
def test_stages_fit_into_any_cluster_and_never_fuse(cpus: int, memory: float, nodes: int) -> None:
    stages = share([{"CPU": cpus, "memory": memory}] * nodes)
    assert len({stages.track_cpus, stages.decode_cpus, stages.actor_cpus}) == 3
    on_one = stages.actors // nodes
    assert on_one * stages.actor_cpus + stages.decode_cpus <= cpus + 1e-9
    assert 1 <= on_one * stages.threads <= cpus
    assert on_one == 1 or on_one * 2.5e9 <= memory


def test_smaller_nodes_have_fewer_actors() -> None:
    assert share([{"CPU": 16, "memory": 1e12}, {"CPU": 4, "memory": 1e11}, {"memory": 1e10}]).actors == 20


def test_a_cluster_without_cpus_is_told_of_at_once() -> None:
    head = {"memory": 1e10}
    with pytest.raises(InputError, match=r"expected a node with CPUs.*found none on any node"):
        share([head])
    assert share([head], actors=3).actors == 3  # nodes are to come


def test_with_gpus_there_is_an_actor_for_each() -> None:
    nodes = [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}]
    assert share(nodes, gpus_per_actor=1) == Share(decode_cpus=1, actor_cpus=0.5, actor_gpus=1, actors=2)
    assert share(nodes) == Share(decode_cpus=1, actor_cpus=0.5, actor_gpus=0.5, actors=4)
    assert share(nodes, actors=8).actors == 8  # a cluster that grows
    for cpus in (1, 2, 4):
        small = share([{"CPU": cpus, "GPU": 1}])
        assert small.actors * small.actor_cpus + small.decode_cpus <= cpus
        assert small.actor_cpus != small.decode_cpus
    assert share([{"CPU": 8}], gpus_per_actor=1, actors=3).actor_gpus == 1  # a cluster that will grow some
    with pytest.raises(InputError, match="a whole number above 1"):
        share(nodes, gpus_per_actor=1.5)
    with pytest.raises(InputError, match="at most 1, what a node has, found 2"):
        share(nodes, gpus_per_actor=2)
