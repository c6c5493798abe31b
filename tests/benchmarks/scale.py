"""What a million segments cost beside the decoding: `python -m tests.benchmarks.scale [--segments N ...]`.

Videos that are empty files, ten segments each, with two features of four numbers a segment (a file of 2 kB), go through
the code that lists, plans, commits, resumes, joins and opens: nothing is decoded and no network runs. Each step runs in
a process of its own, which tells its seconds, its CPU seconds and its peak memory above what the imports take. A step
that has nothing to do is what a resumed run begins with. Prints a Markdown table. A million segments take 4 GB of disk
(`--folder`, a temporary one by default; what is there already is not made again) and, where `fsync` is slow, hours.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa

import workflows.extract
from balletal.backbones.spec import FeatureSpec
from balletal.detections import DetectionStore
from balletal.features.store import FeatureStore
from balletal.features.units import plan_units
from balletal.video.probe import VIDEO_SUFFIXES, VideoInfo
from schemas import arrow
from tests.benchmarks.extraction_common import load, machine
from workflows.scoring import _PER_PART, missing
from workflows.sources import Source, list_sources

SEGMENTS_PER_VIDEO, DETECTIONS_PER_VIDEO = 10, 100
ABOUT: dict[str, Any] = {
    "duration": 290.0,
    "fps": 25.0,
    "width": 64,
    "height": 48,
    "codec": "h264",
    "rotation": 0,
    "frames": 7250,
}
SPEC = FeatureSpec("none", "none", ("rgb",), 25, 16, 375, 224, "full", "windowed", 4, "float16")
SCORING = {"bundle": "0" * 64, "name": "scale", "spec": SPEC.spec_id}


def make_videos(folder: Path, videos: int) -> None:
    """Empty files, and the rows that a probe would write."""
    (folder / "videos").mkdir(parents=True)
    for i in range(videos):
        (folder / "videos" / f"v{i:07d}.mp4").touch()
    rows = [ABOUT | {"video_id": s.video_id, "uri": s.uri, "version": s.version} for s in sources(folder)]
    for at in range(0, videos, workflows.extract._VIDEOS_PER_WRITE):
        store(folder).write_videos(rows[at : at + workflows.extract._VIDEOS_PER_WRITE])


def store(folder: Path) -> FeatureStore:
    return FeatureStore.create(str(folder / "store"), SPEC)


def sources(folder: Path) -> list[Source]:
    return list_sources(str(folder / "videos"), VIDEO_SUFFIXES)


def detections(folder: Path) -> DetectionStore:
    return DetectionStore.create(str(folder / "out" / "detections"), SCORING)


def commit_features(folder: Path) -> str:
    features, into = np.ones((2, SPEC.dim), np.float32), store(folder)
    info = VideoInfo(uri="", vfr=False, **ABOUT)
    units = [unit for source in sources(folder) for unit in plan_units(source.video_id, info, SPEC)]
    for unit in units:
        into.write_unit(unit.video_id, unit.segment, unit.first_clip, features)
    return f"{len(units)} files"


def list_videos(folder: Path) -> str:
    return f"{len(sources(folder))} videos"


def resume_extraction(folder: Path) -> str:
    with patch.object(workflows.extract, "check"):  # no such network
        summary = workflows.extract.extract(str(folder / "videos"), store(folder).uri, spec=SPEC)
    assert summary["segments"]["done"] == 0
    return f"{summary['segments']['skipped']} segments done before"


def plan_scoring(folder: Path) -> str:
    states = store(folder).states()
    listed = [source for source in sources(folder) if source.video_id in states]
    plan = pd.DataFrame(
        {
            "video_id": pd.Series([source.video_id for source in listed], dtype="str"),
            "version": pd.Series([source.version for source in listed], dtype="str"),
            "features": pd.Series([states[source.video_id].digest for source in listed], dtype="str"),
        }
    )
    return f"{len(missing(plan, detections(folder).videos()))} of {len(plan)} videos to score"


def commit_detections(folder: Path) -> str:
    into, listed, states = detections(folder), sources(folder), store(folder).states()
    random = np.random.default_rng(0)
    for at in range(0, len(listed), _PER_PART):
        some = listed[at : at + _PER_PART]
        ids = [source.video_id for source in some]
        start = random.uniform(0, 280, len(some) * DETECTIONS_PER_VIDEO)
        columns = {
            "video_id": np.repeat(ids, DETECTIONS_PER_VIDEO),
            "start": start,
            "end": start + random.uniform(0.3, 1.2, len(start)),
            "label": random.choice([f"class {n}" for n in range(11)], len(start)),
            "score": random.uniform(0, 1, len(start)).astype(np.float32),
            "bundle": np.repeat(SCORING["bundle"], len(start)),
        }
        videos = [
            [source.video_id, source.version, states[source.video_id].digest, DETECTIONS_PER_VIDEO] for source in some
        ]
        scored = pd.DataFrame(videos, columns=arrow.SCORED.names)
        into.write(
            pa.Table.from_pandas(scored, arrow.SCORED, preserve_index=False),
            pa.Table.from_pydict(columns, arrow.DETECTIONS),
        )
    return f"{len(into.parts())} parts"


def compact(folder: Path) -> str:
    into = detections(folder)
    before = len(into.parts())
    into.compact()
    return f"{before} parts to {len(into.parts())}"


def read_all(folder: Path) -> str:
    rows = sum(len(table) for table in detections(folder).tables())
    return f"{rows} detections"


STEPS: dict[str, Callable[[Path], str]] = {
    "commit the features": commit_features,
    "list the videos": list_videos,
    "resume an extraction": resume_extraction,
    "plan a scoring": plan_scoring,
    "commit the detections": commit_detections,
    "plan the next scoring": plan_scoring,
    "join the parts": compact,
    "plan the scoring after": plan_scoring,
    "read all detections": read_all,
}


def measure(step: str, folder: Path) -> dict[str, Any]:
    """Do a step in this process; its seconds, CPU seconds, and peak memory in MB above what there was before."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    started, worked = time.monotonic(), time.process_time()
    did = STEPS[step](folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    seconds, cpu = time.monotonic() - started, time.process_time() - worked
    return {"did": did, "seconds": seconds, "cpu_s": cpu, "mb": max(0.0, peak - before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", choices=STEPS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.step, options.folder)))
        return
    print(machine("cpu"), load(), sep="; ", end="\n\n")
    print("| segments | step | what | s | CPU s | peak MB |\n| ---: | --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        for segments in options.segments:
            folder = (options.folder or Path(scratch)) / str(segments)
            made = folder.exists()
            if not made:
                make_videos(folder, segments // SEGMENTS_PER_VIDEO)
            for step in list(STEPS)[made:]:
                command = [sys.executable, "-m", "tests.benchmarks.scale", "--step", step, "--folder", str(folder)]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
                told = json.loads(said)
                line = f"| {segments:,} | {step} | {told['did']} | {told['seconds']:.1f} | {told['cpu_s']:.1f} |"
                print(f"{line} {told['mb']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
