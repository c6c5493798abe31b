"""The job's part of the extraction benchmark: how well the stages use the cores, memory by length of the video."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np

from balletal.backbones.spec import FeatureSpec
from balletal.features.extractor import Extractor, keep_freed_memory, spec_for
from balletal.features.store import FeatureStore
from balletal.features.units import plan_units, read_unit
from balletal.video.clips import VideoSegment
from balletal.video.probe import probe
from tests.benchmarks.extraction_common import Row, cut, load, repeat
from tests.benchmarks.extraction_tree import Tree

_CORES = len(os.sched_getaffinity(0))


def run_job(videos: Path, store: Path, spec: FeatureSpec) -> tuple[dict[str, Any], Tree]:
    """`balletal extract` in a process of its own, with a Ray of its own; its `run.json`, and what it took."""
    command = [sys.executable, "-m", "tests.benchmarks.extraction_job", videos, store, json.dumps(spec.to_dict())]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    tree = Tree(process)
    try:
        said = process.communicate()[0]
    finally:
        process.terminate()  # when this one is interrupted; Ray ends with its driver
    if process.returncode:
        raise RuntimeError(f"the extraction ended with {process.returncode}")
    summary: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    if summary["segments"]["failed"]:
        raise RuntimeError(f"an extraction with failures says nothing: {summary}")
    return summary, tree


def pipeline(videos: list[Path], folder: Path, seconds: float) -> Iterator[Row]:
    """The whole job against its two halves alone, each with all cores.

    Args:
        videos: all to run on, so many ``seconds`` of each; a quarter of that for windowed features.
        folder: for the cut videos and the stores.
    """
    lengths: dict[Literal["dense", "windowed"], float] = {"dense": seconds, "windowed": seconds / 4}
    for mode, length in lengths.items():
        spec = spec_for(mode=mode, stride=4, crop="center")
        cuts = folder / f"cuts-{mode}"
        units = [
            unit for video in videos for unit in plan_units(video.stem, probe(str(cut(video, length, cuts))), spec)
        ]
        decode = [decode_rate(units, spec)]
        model = [model_rate(units[:3], spec)]
        store = folder / f"store-{mode}"
        summary, tree = run_job(cuts, store, spec)
        model.append(model_rate(units[:3], spec))
        decode.append(decode_rate(units, spec))
        yield from _pipeline_rows(mode, spec, summary, tree, store, min(decode), max(decode), min(model), max(model))


def _pipeline_rows(
    mode: str, spec: FeatureSpec, summary: dict[str, Any], tree: Tree, store: Path,
    decode_low: float, decode: float, model_low: float, model: float,
) -> list[Row]:  # fmt: skip
    work = json.loads(Path(summary["run"]).read_text())["work"]
    # From the first unit's file to the last one's: the pipeline at work, without its start. The few units that were
    # decoded before the first one ended are a gift, the smaller the more units there are.
    times = sorted(Path(file).stat().st_mtime for file in FeatureStore.open(str(store), spec.spec_id).files())
    made = work["video_hours"] * 3600
    steady = made * (len(times) - 1) / len(times) / (times[-1] - times[0])
    whole = made / work["seconds"]
    slower = min(decode, model)
    bound = 1 / (1 / decode + 1 / model) / slower
    stages = ", ".join(f"{name} {stage['busy_s']} s" for name, stage in work["stages"].items())
    spent = ", ".join(f"{role} {seconds:.0f}" for role, seconds in sorted(tree.cpu_s.items(), key=lambda x: -x[1]))
    used = sum(tree.cpu_s.values()) / summary["seconds"] / _CORES
    about = f"{len(times)} units, {made:.0f} video-s"
    return [
        Row("pipeline", f"{mode}: decode alone", decode, "video-s/s", f"{_CORES} processes; again: {decode_low:.3g}"),
        Row("pipeline", f"{mode}: model alone", model, "video-s/s", f"{_CORES} threads; again: {model_low:.3g}"),
        Row("pipeline", f"{mode}: job, first unit to last", steady, "video-s/s", f"{about}; {load()}"),
        Row("pipeline", f"{mode}: job with the start of its actors", whole, "video-s/s", f"busy: {stages}"),
        Row("pipeline", f"{mode}: efficiency", steady / slower, "of the slower half", "wanted: 0.9"),
        Row("pipeline", f"{mode}: what is possible", bound, "of the slower half", "both halves share the same cores"),
        Row("pipeline", f"{mode}: efficiency / possible", steady / slower / bound, ""),
        Row(
            "pipeline",
            f"{mode}: cores in use",
            used,
            "of all",
            f"processor seconds: {spent}; of {summary['seconds']} s",
        ),
    ]


def decode_rate(units: Sequence[VideoSegment], spec: FeatureSpec) -> float:
    """Video-seconds a second of the job's decoding, in as many processes as there are cores."""
    with ProcessPoolExecutor(_CORES, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_decoded, [units[0]] * (2 * _CORES), [spec] * (2 * _CORES)))  # imports, and files into memory
        start = time.perf_counter()
        list(pool.map(_decoded, units, [spec] * len(units)))
        return sum(unit.clips for unit in units) * spec.stride_s / (time.perf_counter() - start)


def _decoded(unit: VideoSegment, spec: FeatureSpec) -> int:
    return len(read_unit(unit, spec).pixels)


def model_rate(units: Sequence[VideoSegment], spec: FeatureSpec) -> float:
    """Video-seconds a second of the network, with the frames in memory."""
    keep_freed_memory()  # as the job does
    extractor = Extractor(spec)
    frames = [read_unit(unit, spec) for unit in units]
    extractor.extract(frames[0].pixels[:64])
    start = time.perf_counter()
    made = sum(len(extractor.extract_unit(one, unit.clips)) for one, unit in zip(frames, units, strict=True))
    return made * spec.stride_s / (time.perf_counter() - start)


def memory(folder: Path) -> Iterator[Row]:
    """Peak memory of an extraction of two hours against one of a minute.

    At 224 pixels the two hours are read at 2.5 frames a second, so that the network ends in reasonable time: 12 whole
    units; ten minutes are one whole unit. At 32 pixels and 25 frames a second they are 120 units, ten minutes
    are ten (every actor has work), and a minute is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    minute = _draw(folder / "minute.mp4", 60)
    for size, fps, lengths in ((32, 25.0, (1, 10, 120)), (224, 2.5, (1, 10, 120))):
        spec = replace(spec_for(mode="dense", stride=4, fps=fps), size=size)
        peaks = {}
        for minutes in lengths:
            videos = folder / f"{minutes}-minutes"
            videos.mkdir(exist_ok=True)
            if not any(videos.iterdir()):
                repeat(minute, minutes, videos / "video.mp4")
            summary, tree = run_job(videos, folder / f"store-{size}-{minutes}", spec)
            peaks[minutes] = tree.peak
            note = f"{tree.peak_shared / 1e6:.0f} MB of it shared; {summary['segments']['done']} units, "
            note += f"{summary['seconds']:.0f} s; {load()}"
            what = f"{size} pixels, {fps:g} fps: {minutes} minutes of video"
            yield Row("memory", what, tree.peak / 1e6, "MB", note)
        for minutes in lengths[:-1]:
            what = f"{size} pixels, {fps:g} fps: 120 minutes / {minutes}"
            note = "" if minutes * fps * 60 >= 1500 else "the shorter one does not fill a unit"
            yield Row("memory", what, peaks[120] / peaks[minutes], "x", note)


def _draw(path: Path, seconds: int) -> Path:
    """A small video of a moving disc: H.264, 256 x 144, 25 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        stream.options = {"g": "50", "preset": "ultrafast"}
        for i in range(25 * seconds):
            picture = np.full((144, 256, 3), 60, np.uint8)
            x = 128 + 90 * np.sin(i / 20)
            cv2.circle(picture, (round(x), 72), 24, (200, 120, 90), -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def main(videos: str, store: str, spec: str) -> None:
    """One extraction, for :func:`run_job`."""
    from workflows.extract import extract

    print(json.dumps(extract(videos, store, spec=FeatureSpec.from_dict(json.loads(spec)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
