"""Videos in a bucket, features in a bucket: against a real S3 server."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import s3fs

from balletal.annotations import read_annotations
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.features.extractor import Extractor
from balletal.features.store import FeatureStore
from balletal.tal.sequences import SequenceFile, write_sequences
from balletal.video.decode import read_frames
from tests.balletal.tal.conftest import make_sequences
from workflows.extract import extract
from workflows.fit_projection import _count_rows
from workflows.sources import list_sources

pytestmark = pytest.mark.ray

WINDOWED = ["--mode", "windowed", "--crop", "center"]


def test_extract_from_a_bucket_into_a_bucket(
    tmp_path: Path, s3: str, spec: FeatureSpec, weights: str, make_video: Callable[..., Path]
) -> None:
    bucket = s3fs.S3FileSystem()
    for i in range(2):
        local = make_video(tmp_path / f"v{i}.mp4", 1.5 + i, seed=i)
        bucket.put(str(local), f"{s3}/in/{local.name}")
    bucket.pipe(f"{s3}/in/broken.mp4", b"no video")
    store_uri = f"{s3}/store"
    spec = spec.replace(size=224)  # as the command makes them

    # Another process: a Ray that runs already would not have the server's address in its workers' environment.
    command = [sys.executable, "-m", "workflows.extract", "--videos", f"{s3}/in", "--store", store_uri]
    command += [
        "--backbone",
        "i3d-rgb",
        "--weights",
        weights,
        "--stride",
        "16",
        "--dtype",
        "float32",
        *WINDOWED,
        "--json",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["videos"], summary["videos_failed"]) == (3, 1)
    assert summary["segments"] == {"total": 2, "done": 2, "skipped": 0, "failed": 0}

    store = FeatureStore.open(store_uri)
    assert store.spec == spec
    assert list(store.errors()["uri"]) == [f"{s3}/in/broken.mp4"]
    assert store.video_ids() == ["v0", "v1"]
    extractor = Extractor(spec, weights)
    for video in store.iter_videos():
        frames = read_frames(str(tmp_path / f"{video.video_id}.mp4"), 25, 0, 1000)
        np.testing.assert_allclose(video.features, extractor.extract(frames.pixels), rtol=1e-4, atol=1e-5)
    assert _count_rows(store.files()) == summary["rows"] == 2 + 3

    again = extract(f"{s3}/in", store_uri, spec=spec, weights=weights)  # nothing to do, so it needs no Ray
    assert (again["segments"]["done"], again["segments"]["skipped"], again["rows"]) == (0, 2, 0)


def test_a_replaced_object_has_another_version(tmp_path: Path, s3: str) -> None:
    bucket = s3fs.S3FileSystem()
    bucket.pipe(f"{s3}/versions/a.mp4", b"first")
    (before,) = list_sources(f"{s3}/versions", (".mp4",))
    assert before.uri == f"{s3}/versions/a.mp4"
    bucket.pipe(f"{s3}/versions/a.mp4", b"other")  # as many bytes
    (after,) = list_sources(f"{s3}/versions", (".mp4",))
    assert after.version != before.version
    with pytest.raises(InputError, match="nothing there"):
        list_sources(f"{s3}/nowhere", (".mp4",))


def test_sequences_go_into_a_bucket(s3: str) -> None:
    uri = f"{s3}/run/sequences/training.parquet"
    assert write_sequences(uri, make_sequences(3), dim=6, meta={}) == 3
    assert len(SequenceFile(uri)) == 3


def test_a_corpus_is_drawn_into_a_bucket(s3: str) -> None:
    command = [sys.executable, "-m", "workflows.synth", "--out", f"{s3}/corpus", "--preset", "easy", "--json"]
    command += ["--videos", "2", "--seconds", "4", "--size", "64x64"]
    for resumed in (0, 2):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["resumed"] == resumed
    assert list(read_annotations(f"{s3}/corpus/annotations.json").videos["video_id"]) == ["AAA0000", "AAB0000"]
    assert [source.video_id for source in list_sources(f"{s3}/corpus/videos", (".mp4",))] == ["AAA0000", "AAB0000"]
