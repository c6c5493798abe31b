"""Extractions with a fault in them: run here or as a command of its own, and compared.

``python -m tests.workflows.faults_common JOB.json`` is the command: a job is what :func:`write_job` writes.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd

import workflows.extract
from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.features.store import FeatureStore
from balletal.features.units import FRAMES_PER_UNIT
from balletal.video.probe import VideoInfo
from tests.workflows import fault_points
from tests.workflows.fault_points import Fault
from workflows import extract_stages
from workflows.console import print_json, run
from workflows.extract import extract
from workflows.sources import Source

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def faulty(fault: Fault | None, *, limit_s: float | None = None) -> Iterator[None]:
    """Extractions of this process have the fault, in whatever process they come to it.

    Args:
        limit_s: of the guard, in place of minutes.
    """
    if fault is None:
        yield
        return
    video_sources = workflows.extract.video_sources

    def listed(*args: Any, **kwargs: Any) -> list[Source]:
        found = video_sources(*args, **kwargs)
        fault.reach("listed")
        return found

    def probe_some(*args: Any) -> list[tuple[Source, VideoInfo | Exception]]:
        fault.reach("probe")
        return workflows.extract._probe_some(*args)

    replaced: list[tuple[Any, str, Any]] = [
        (workflows.extract, "video_sources", listed),
        (workflows.extract, "_probe_some", probe_some),
        (extract_stages, "_track", partial(_track, fault, limit_s)),
        (extract_stages, "_decode", partial(_decode, fault, limit_s)),
        (extract_stages, "_Backbone", _backbone(fault)),
        (extract_stages, "_write", partial(_write, fault)),
    ]
    with ExitStack() as stack:
        for module, name, value in replaced:
            stack.enter_context(patch.object(module, name, value))
        yield


def _track(fault: Fault, limit_s: float | None, store: FeatureStore, batch: dict[str, Any]) -> dict[str, Any]:
    video = json.loads(batch["units"][0])[0]["video_id"]
    reader = partial(fault_points.track_dancer, fault, video)
    with patch.object(extract_stages, "track_dancer", reader), _limit(limit_s):
        return extract_stages._track(store, batch)


def _decode(fault: Fault, limit_s: float | None, store: FeatureStore, unit: dict[str, Any]) -> dict[str, Any]:
    reader = partial(fault_points.read_frames, fault, unit["video_id"])
    with patch.object(extract_stages, "read_frames", reader), _limit(limit_s):
        return extract_stages._decode(store, unit)


@contextmanager
def _limit(limit_s: float | None) -> Iterator[None]:
    if limit_s is None:
        yield
    else:
        with patch.multiple(extract_stages, _LIMIT_S=limit_s, _LIMIT_PER_VIDEO_S=0.0):
            yield


def _backbone(fault: Fault) -> type:
    class Disturbed(extract_stages._Backbone):
        def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
            video, clips = unit["video_id"], 0

            def amid(network: Callable[[Any], Any], clip: Any) -> Any:
                nonlocal clips
                clips += 1
                if clips == 2:
                    fault.reach("backbone", video)
                return network(clip)

            networks = self.extractor._features
            disturbed = {stream: partial(amid, network) for stream, network in networks.items()}
            with patch.object(self.extractor, "_features", disturbed):
                return super().__call__(unit)

    return Disturbed


def _write(fault: Fault, store: FeatureStore, unit: dict[str, Any]) -> dict[str, Any]:
    with fault_points.around_rename(fault, unit["video_id"]):
        return extract_stages._write(store, unit)


@dataclass(frozen=True)
class Content:
    """What a store holds: the bytes of each unit's file, the error rows, what is known of each video."""

    units: dict[tuple[str, int], bytes]
    errors: list[dict[str, Any]]
    videos: list[dict[str, Any]]
    rows: int

    def without(self, video: str) -> "Content":
        units = {unit: data for unit, data in self.units.items() if unit[0] != video}
        errors = [row for row in self.errors if row["video_id"] != video]
        videos = [row for row in self.videos if row["video_id"] != video]
        return Content(units, errors, videos, self.rows)


def content(store: FeatureStore) -> Content:
    """Read a store, and make sure that no row is in it twice, as any reader of Parquet sees it."""
    units = {unit: uri for video in store._listing().items() for unit, uri in _named(*video)}
    rows = [pd.read_parquet(uri, columns=["video_id", "clip"]) for uri in units.values()]
    table = pd.concat(rows) if rows else pd.DataFrame({"video_id": [], "clip": []})
    assert not table.duplicated().any(), table[table.duplicated()]
    return Content(
        units={unit: files.read_bytes(uri) for unit, uri in units.items()},
        errors=_records(store.errors(), ["video_id", "segment"]),
        videos=_records(store.videos(), ["video_id"]),
        rows=len(table),
    )


def _named(video: str, units: list[tuple[int, str]]) -> Iterator[tuple[tuple[str, int], str]]:
    for segment, uri in units:
        yield (video, segment), uri


def _records(table: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    found: list[Any] = table.sort_values(by).to_dict("records")
    return found


def write_job(path: Path, videos: Path | str, store: str, spec: FeatureSpec, weights: str, **options: Any) -> Path:
    """A job for :func:`start`: ``frames`` of a unit, a ``fault``, ``limit_s`` of the guard, what `extract` takes."""
    if fault := options.pop("fault", None):
        options["fault"] = asdict(fault)
    path.write_text(
        json.dumps({"videos": str(videos), "store": store, "spec": spec.to_dict(), "weights": weights, **options})
    )
    return path


def start(job: Path, scratch: str, **environment: str) -> "subprocess.Popen[bytes]":
    """Begin an extraction in a process of its own. It logs to ``<job>.log``, its Ray lives below ``scratch``."""
    environment = {**os.environ, "RAY_TMPDIR": scratch, "OMP_NUM_THREADS": "1", **environment}
    with job.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", "tests.workflows.faults_common", str(job)]
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)


def until(condition: Callable[[], Any], process: "subprocess.Popen[bytes] | None" = None, seconds: float = 180) -> Any:
    """Wait until a condition holds; what it gave. None when the time is over, or the process ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended = process is not None and process.poll() is not None
        if found := condition():
            return found
        if ended:
            return None
        time.sleep(0.05)
    return None


def processes(marker: str) -> list[int]:
    """Processes that have to do with a folder: by their command line, environment or open files."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            about = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            about += " ".join(str(fd.readlink()) for fd in (path / "fd").iterdir()).encode()
        except OSError:
            continue
        if marker.encode() in about and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def main(job: str) -> None:
    """Run a job."""
    about = json.loads(Path(job).read_text())
    fault = Fault(**about.pop("fault")) if "fault" in about else None
    FRAMES_PER_UNIT["windowed"] = about.pop("frames", FRAMES_PER_UNIT["windowed"])
    spec = FeatureSpec.from_dict(about.pop("spec"), where=job)
    with faulty(fault, limit_s=about.pop("limit_s", None)):
        print_json(extract(about.pop("videos"), about.pop("store"), spec=spec, **about))


if __name__ == "__main__":
    run(main)
