"""Extract features from videos into a feature store.

list -> probe -> plan units -> anti-join against the store -> decode (tasks) -> backbone (actors), which writes

A unit of work is a stretch of one video, some 30 s of it. It is done when its file is in the store, which is all that a
resumed job needs to know. Whatever is wrong with a video becomes a row of `errors/`, and the others go on.
"""

import math
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import ray
import torch
import typer
from ray.data import ActorPoolStrategy

from balletal.backbones.spec import FeatureSpec
from balletal.errors import VideoError
from balletal.features.extractor import Extractor, read_unit, spec_for
from balletal.features.store import WHOLE_VIDEO, FeatureStore
from balletal.video.clips import VideoSegment, plan_segments
from balletal.video.probe import VIDEO_SUFFIXES, VideoInfo, probe
from workflows.cluster import ray_session
from workflows.console import SOME_VIDEOS_FAILED, finish, print_json, run, say
from workflows.sources import AmbiguousNamesError, Source, VideoIds, drop_changed, known_videos, list_sources

FRAMES_PER_UNIT = 750
"""Analysis frames of one unit: 30 s at 25 fps, 113 MB as pixels. Part of the store's contract: another number would cut
videos elsewhere, and a store half filled under the old one would hold clips twice."""

_PROBES_PER_TASK = 8
_VIDEOS_PER_WRITE = 256
_PROGRESS_S = 10.0


def extract(
    videos: str,
    store_uri: str,
    *,
    spec: FeatureSpec,
    weights: str | None = None,
    video_ids: VideoIds = "stem",
    retry_failed: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Extract the features of all videos below ``videos`` that the store does not have yet.

    A video whose file has changed (its etag, or time and size) is extracted anew. What failed is left alone until its
    file changes, or with ``retry_failed``. A unit that is damaged in parts keeps the features that could be made, and
    gets an error row as well.

    Args:
        videos: a folder, a file, or an fsspec URI of either.
        spec: of :func:`balletal.features.extractor.spec_for`.
        weights: what ``spec_for`` was given; a file must be readable on every node.
        video_ids: see :func:`workflows.sources.list_sources`.

    Returns:
        ``spec``; ``videos`` found; ``videos_failed``, those with an error row; ``segments`` with ``total``, ``done`` by
        this run, ``skipped`` because the store has them and ``failed`` without features; ``rows`` written by this run;
        ``seconds``.

    Raises:
        InputError: no video at ``videos``, or a video id that belongs to another file in the store.
        AmbiguousNamesError: two videos of one id.
    """
    started = time.monotonic()
    sources = list_sources(videos, VIDEO_SUFFIXES, video_ids=video_ids)
    store = FeatureStore.create(store_uri, spec)
    new = drop_changed(store, sources, VIDEO_SUFFIXES)
    failed = _failed(store, sources)
    leave = set() if retry_failed else failed
    to_probe = [source for source in new.values() if (source.video_id, WHOLE_VIDEO) not in leave]

    with ray_session(address) if to_probe else nullcontext():
        if to_probe:
            _probe_all(store, to_probe)
        units = _plan(store, sources)
        finished = store.units() - (failed if retry_failed else set())
        todo = [u for u in units if (u.video_id, u.segment) not in finished | leave]
        say(f"{len(sources)} videos, {len(units)} segments, {len(todo)} to do")
        rows = 0
        if todo:
            with ray_session(address):
                rows = _extract_all(store, todo, {s.video_id: s.version for s in sources}, weights)

    stored = store.units()
    attempted = {(u.video_id, u.segment) for u in todo}
    planned = {(u.video_id, u.segment) for u in units}
    return {
        "spec": spec.spec_id,
        "videos": len(sources),
        "videos_failed": len({video for video, _ in _failed(store, sources)}),
        "segments": {
            "total": len(planned),
            "done": len(planned & stored & attempted),
            "skipped": len(planned & stored - attempted),
            "failed": len(planned - stored),
        },
        "rows": rows,
        "seconds": round(time.monotonic() - started, 2),
    }


def _failed(store: FeatureStore, sources: Iterable[Source]) -> set[tuple[str, int]]:
    """(video_id, segment) of the error rows that concern the sources as they are now."""
    versions = {source.video_id: source.version for source in sources}
    rows = store.errors().to_dict("records")
    return {(row["video_id"], row["segment"]) for row in rows if versions.get(row["video_id"]) == row["version"]}


def _probe_all(store: FeatureStore, sources: list[Source]) -> None:
    """Look at videos, in parallel; write the videos table, and an error row for each that is none."""
    errors = store.errors()
    known_bad = set(errors.loc[errors["segment"] == WHOLE_VIDEO, "video_id"])
    batches = [sources[i : i + _PROBES_PER_TASK] for i in range(0, len(sources), _PROBES_PER_TASK)]
    probe_some = ray.remote(_probe_some)
    waiting = [probe_some.remote(batch) for batch in batches]
    rows: list[dict[str, Any]] = []
    while waiting:
        ready, waiting = ray.wait(waiting)
        for source, info in ray.get(ready[0]):
            if isinstance(info, Exception):
                store.write_error(
                    source.video_id, WHOLE_VIDEO, uri=source.uri, version=source.version, stage="probe", error=info
                )
                continue
            if source.video_id in known_bad:
                store.clear_error(source.video_id, WHOLE_VIDEO)
            columns = asdict(info)
            del columns["vfr"]
            rows.append(columns | {"video_id": source.video_id, "version": source.version})
        if rows and (len(rows) >= _VIDEOS_PER_WRITE or not waiting):
            store.write_videos(rows)
            rows = []


def _probe_some(sources: list[Source]) -> list[tuple[Source, VideoInfo | Exception]]:
    found: list[tuple[Source, VideoInfo | Exception]] = []
    for source in sources:
        try:
            found.append((source, probe(source.uri)))
        except Exception as error:  # whatever a file does, the others go on
            found.append((source, error))
    return found


def _clips_per_unit(spec: FeatureSpec) -> int:
    return max(1, (FRAMES_PER_UNIT - spec.window) // spec.stride + 1)


def _plan(store: FeatureStore, sources: list[Source]) -> list[VideoSegment]:
    """The units of every source that the videos table describes as it is now."""
    known = {(row["video_id"], row["version"]): row for row in known_videos(store, VIDEO_SUFFIXES)}
    units = []
    for source in sources:
        row = known.get((source.video_id, source.version))
        if row is not None:
            about = {name: row[name] for name in ("duration", "fps", "width", "height", "codec", "rotation", "frames")}
            # Where the file is now; it may have moved since it was probed.
            info = VideoInfo(uri=source.uri, vfr=False, **about)
            units += plan_segments(source.video_id, info, store.spec, _clips_per_unit(store.spec))
    return units


@dataclass(frozen=True)
class Share:
    """How the stages share a cluster: CPUs of a decoding task; CPUs, GPUs and number of the backbone's actors.

    The CPUs of the two differ, or Ray Data would fuse both stages into one.
    """

    decode_cpus: float
    actor_cpus: float
    actor_gpus: int
    actors: int


def share(cpus: float, node_cpus: float, gpus: float) -> Share:
    """Divide a cluster that has ``cpus`` in all, ``node_cpus`` on its largest node, and ``gpus``."""
    if gpus >= 1:
        return Share(decode_cpus=1, actor_cpus=0.5, actor_gpus=1, actors=int(gpus))
    # On CPUs the backbone needs some ten times the time of decoding: beside each actor, half a CPU is left for that.
    # More than four threads speed one actor up by less than a second actor would.
    decode_cpus = 0.5
    actor_cpus = min(4.0, node_cpus - decode_cpus) if node_cpus > 1 else 0.25
    return Share(decode_cpus, actor_cpus, 0, max(1, int(cpus // (actor_cpus + decode_cpus))))


def _extract_all(store: FeatureStore, units: list[VideoSegment], versions: dict[str, str], weights: str | None) -> int:
    """Decode the units, make and write their features. Returns the rows written."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    stages = share(total.get("CPU", 1), max(node.get("CPU", 0) for node in nodes), total.get("GPU", 0))
    # One row a block, so that a task is a unit; more rows where there are very many.
    results = (
        ray.data.from_items(
            [asdict(unit) | {"version": versions[unit.video_id]} for unit in units],
            override_num_blocks=min(len(units), 4096),
        )
        .map(partial(_decode, store), num_cpus=stages.decode_cpus)
        .map(
            _ExtractAndWrite,  # a class is allowed, and made once an actor
            fn_constructor_args=(store, weights, math.ceil(stages.actor_cpus)),
            compute=ActorPoolStrategy(min_size=1, max_size=stages.actors),
            num_cpus=stages.actor_cpus,
            num_gpus=stages.actor_gpus,
        )
    )
    rows, told = 0, time.monotonic()
    for finished, result in enumerate(results.iter_rows(), start=1):
        rows += result["rows"]
        if time.monotonic() - told > _PROGRESS_S or finished == len(units):
            told = time.monotonic()
            say(f"{finished} of {len(units)} segments, {rows} features")
    return rows


def _decode(store: FeatureStore, unit: dict[str, Any]) -> dict[str, Any]:
    """Add the unit's ``frames`` (n, size, size, 3) uint8 and their ``damage`` in words; none when it ``failed``."""
    segment = VideoSegment(**{field.name: unit[field.name] for field in fields(VideoSegment)})
    try:
        frames = read_unit(segment, store.spec)
        if frames.damage and not len(frames.pixels):
            raise _damage(store, unit, 0, frames.damage)
    except Exception as error:  # whatever a file does, the others go on
        _write_error(store, unit, "decode", error)
        pixels = np.empty((0, store.spec.size, store.spec.size, 3), np.uint8)
        return unit | {"frames": pixels, "damage": "", "failed": True}
    return unit | {"frames": frames.pixels, "damage": frames.damage or "", "failed": False}


def _damage(store: FeatureStore, unit: dict[str, Any], decoded: int, damage: str) -> VideoError:
    missing = (unit["clips"] - 1) * store.spec.stride + store.spec.window - decoded
    kind = "truncated" if missing else "corrupt"
    return VideoError(unit["uri"], kind, expected="pictures that all decode", found=damage)


class _ExtractAndWrite:
    """The backbone, in an actor: makes the features of a unit and writes its file, the last thing done for a unit."""

    def __init__(self, store: FeatureStore, weights: str | None, threads: int) -> None:
        torch.set_num_threads(threads)
        # The frames lie read-only in Ray's object store; the backbone reads them only, so no copy is needed.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self.store = store
        self.extractor = Extractor(store.spec, weights)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        if unit["failed"]:
            return {"rows": 0}
        video_id, segment, damage = unit["video_id"], unit["segment"], unit["damage"]
        try:
            features = self.extractor.extract(unit["frames"], unit["clips"])
            # Here and not where it was found: what has an error row is not tried again, and a run that is killed
            # holds decoded units whose features are still to come.
            if damage:
                _write_error(self.store, unit, "decode", _damage(self.store, unit, len(unit["frames"]), damage))
            self.store.write_unit(video_id, segment, unit["first_clip"], features)
        except Exception as error:
            _write_error(self.store, unit, "extract", error)
            return {"rows": 0}
        if not damage:
            self.store.clear_error(video_id, segment)
        return {"rows": len(features)}


def _write_error(
    store: FeatureStore, unit: dict[str, Any], stage: Literal["decode", "extract"], error: Exception
) -> None:
    store.write_error(
        unit["video_id"], unit["segment"], uri=unit["uri"], version=unit["version"], stage=stage, error=error
    )


def main(
    videos: Annotated[str, typer.Option(help="Folder of videos, one video, or a URI of either.")],
    store: Annotated[str, typer.Option(help="Feature store: a folder or URI.")],
    backbone: Annotated[str, typer.Option(help="Network that makes the features.")] = "i3d-rgb-kinetics400",
    weights: Annotated[str | None, typer.Option(help="Weights: a name or a file; default: the backbone's own.")] = None,
    fps: Annotated[float, typer.Option(help="Analysis rate, frames a second.")] = 25.0,
    window: Annotated[int, typer.Option(help="Analysis frames that a feature sees.")] = 16,
    stride: Annotated[int, typer.Option(help="Analysis frames between features.")] = 4,
    mode: Annotated[Literal["windowed"], typer.Option(help="Each window through the network alone.")] = "windowed",
    crop: Annotated[
        Literal["center", "full"], typer.Option(help="Central square, or the whole picture squeezed into one.")
    ] = "center",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Arithmetic; the store keeps float32 for float32 and float16 otherwise."),
    ] = "bfloat16",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    video_id: Annotated[
        VideoIds, typer.Option(help="Call videos by file name without suffix, or by path below --videos.")
    ] = "stem",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Extract features from videos into a feature store. What is there already is not done again."""
    # The weights' digest is part of the spec; `windowed` is what spec_for makes.
    spec = spec_for(backbone, weights=weights, fps=fps, window=window, stride=stride, crop=crop, dtype=dtype)
    try:
        summary = extract(
            videos,
            store,
            spec=spec,
            weights=weights,
            video_ids=video_id,
            retry_failed=retry_failed,
            address=address,
        )
    except AmbiguousNamesError as error:
        raise typer.BadParameter(str(error), param_hint="--videos") from None
    segments = summary["segments"]
    if json:
        print_json(summary)
    elif segments["done"] == 0 and not summary["videos_failed"]:
        say(f"nothing to do: all {segments['total']} segments of {summary['videos']} videos are in {store}")
    else:
        say(
            f"{summary['videos']} videos, {segments['total']} segments: {segments['done']} done, {segments['skipped']} "
            f"there already, {segments['failed']} failed; {summary['rows']} features, {summary['seconds']} s; "
            f"spec {summary['spec']}"
        )
    if summary["videos_failed"]:
        say(f"{summary['videos_failed']} videos have errors: see balletal errors --store {store}, or --retry-failed")
        finish(SOME_VIDEOS_FAILED)


if __name__ == "__main__":
    run(main)
