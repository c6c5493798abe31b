"""Scoring a bucket, killed in the middle, repeated and shared out: against a real S3 server."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest

from balletal import files
from balletal.detections import DetectionStore
from tests.workflows.faults_common import ROOT
from workflows import scoring
from workflows.score import score
from workflows.sources import Shard

pytestmark = pytest.mark.ray


def start(log: Path, scratch: str, **options: Any) -> "subprocess.Popen[bytes]":
    """`score` in a process of its own, whose parts are of one video each; its summary is the last line of the log."""
    environment = {**os.environ, "RAY_TMPDIR": scratch, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.workflows.test_bulk_scoring", json.dumps(options)]
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment)


def summary(log: Path, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert process.wait(500) == 0, log.read_text()
    found: dict[str, Any] = json.loads(log.read_text()[log.read_text().rindex("\n{") :])
    return found


def raw(store: DetectionStore) -> pd.DataFrame:
    """The rows that any reader of Parquet finds."""
    tables = [pd.read_parquet(uri, partitioning=None) for uri in store.parts()]
    return pd.concat(tables).sort_values("video_id", kind="stable", ignore_index=True)


def test_a_bucket_killed_and_shared_out(
    s3: str, ray_cluster: None, tiny_bundle: Any, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    local = tmp_path / "videos"
    for seed in range(6):
        make_video(local / f"v{seed}.mp4", 3.0, seed=seed)
    (local / "broken.mp4").write_bytes(b"no video")
    for path in local.iterdir():
        files.write_bytes(f"{s3}/bulk/{path.name}", path.read_bytes())
    bundle = f"{s3}/bundle"
    for uri in files.list_files(tiny_bundle.folder):
        files.write_bytes(files.join(bundle, Path(uri).name), files.read_bytes(uri))
    undisturbed = score(tiny_bundle.folder, str(tmp_path / "usual"), videos=str(local), weights=tiny_bundle.weights)
    assert undisturbed["scored"] == 6
    usual = pd.read_parquet(tmp_path / "usual" / "detections.parquet")

    out = f"{s3}/out"
    how = {"bundle": bundle, "out": out, "videos": f"{s3}/bulk", "weights": tiny_bundle.weights}
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:  # a short path, for sockets
        log = tmp_path / "killed"
        killed = start(log, scratch, **how, die_after=2)
        assert killed.wait(500) == -signal.SIGKILL, log.read_text()
        before = len(parts(out))
        assert before == 2
        assert not files.exists(f"{out}/detections.parquet")
        # Two shards at once do the rest, and what is there counts for them.
        logs = [tmp_path / "1", tmp_path / "2"]
        shards = [start(at, scratch, **how, shard=f"{number}/2") for number, at in enumerate(logs, 1)]
        told = [summary(at, process) for at, process in zip(logs, shards, strict=True)]
    assert sum(one["scored"] for one in told) == 6 - before
    assert sum(one["videos"] for one in told) == 7
    assert sum(one["videos_failed"] for one in told) == 1
    assert not files.exists(f"{out}/detections.parquet")
    store = DetectionStore.open(f"{out}/detections")
    pd.testing.assert_frame_equal(raw(store), usual)

    # Nothing else is left to do: the workers of this Ray, who do not know the server, are not asked.
    last = score(**how)
    assert (last["videos"], last["videos_failed"], last["scored"]) == (7, 1, 0)
    assert last["detections"] == undisturbed["detections"] == len(usual)
    assert len(store.parts()) == 1
    pd.testing.assert_frame_equal(raw(store), usual)
    pd.testing.assert_frame_equal(pd.read_parquet(f"{out}/detections.parquet", partitioning=None), usual)
    for name in ("detections.json", "run.json"):
        assert files.exists(f"{out}/{name}")
    assert files.read_json(f"{out}/detections.json") == files.read_json(str(tmp_path / "usual" / "detections.json"))


def parts(out: str) -> list[str]:
    below = f"{out}/detections"
    return files.list_files(below, (".parquet",)) if files.exists(below) else []


def main(options: str) -> None:
    """Score as the options say, with a part for each video, and die once there are so many parts."""
    about = json.loads(options)
    scoring._PER_TASK = scoring._PER_PART = 1
    if "shard" in about:
        about["shard"] = Shard.parse(about["shard"])
    die_after, write = about.pop("die_after", 0), DetectionStore.write

    def deadly(store: DetectionStore, *args: Any, **kwargs: Any) -> None:
        write(store, *args, **kwargs)
        if len(store.parts()) == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(DetectionStore, "write", deadly):
        print("\n" + json.dumps(score(**about)))


if __name__ == "__main__":
    main(sys.argv[1])
