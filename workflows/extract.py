"""Extract features from videos into a feature store.

list -> probe -> plan units -> anti-join against the store -> :mod:`workflows.extract_stages`

A unit of work is a stretch of one video, some 30 s of it. It is done when its file is in the store, which is all that a
resumed job needs to know. Whatever is wrong with a video becomes a row of `errors/`, and the others go on.
"""

import gc
import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import ray
import typer
from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import BalletalError, ForbiddenError, InputError, StorageError, VideoError
from balletal.features.extractor import Dtype, Weights, check, spec_for
from balletal.features.store import WHOLE_VIDEO, FeatureStore
from balletal.features.units import plan_units
from balletal.video.clips import VideoSegment
from balletal.video.guard import GuardError, guarded
from balletal.video.picture import Crop
from balletal.video.probe import VIDEO_SUFFIXES, VideoInfo, probe
from workflows.cluster import nodes, ray_session
from workflows.console import SOME_VIDEOS_FAILED, finish, print_json, run, say
from workflows.extract_stages import share, stages
from workflows.progress import OnVideo, Progress, Through
from workflows.sources import (
    AmbiguousNamesError,
    Source,
    VideoIds,
    Videos,
    drop_changed,
    known_videos,
    video_sources,
)

_PROBES_PER_TASK = 8
_VIDEOS_PER_WRITE = 256
_PROBE_LIMIT_S = 1800.0  # a container without an index is read through once


def extract(
    videos: Videos,
    store_uri: str,
    *,
    spec: FeatureSpec,
    weights: Weights = None,
    flow: str | None = None,
    video_ids: VideoIds = "stem",
    retry_failed: bool = False,
    actors: int | None = None,
    gpus_per_actor: float | None = None,
    price: float | None = None,
    address: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_video: OnVideo | None = None,
) -> dict[str, Any]:
    """Extract the features of all videos of ``videos`` that the store does not have yet.

    A video whose file has changed (its etag, or time and size) is extracted anew. What failed is left alone until its
    file changes, or with ``retry_failed``. A unit that is damaged in parts keeps the features that could be made, and
    gets an error row as well.

    Args:
        videos: a folder, a file, or an fsspec URI of either; or URIs by video id.
        spec: of :func:`balletal.features.extractor.spec_for`.
        weights, flow: what ``spec_for`` was given; a file must be readable on every node.
        actors, gpus_per_actor: see :func:`workflows.extract_stages.share`.
        price: of an hour of the cluster, for the cost per video-hour in ``run.json``.
        video_ids: see :func:`workflows.sources.list_sources`.
        on_progress: is told, whenever it changes, how many segments are done and how many there are.
        on_video: is told of each video as soon as there is no work left for it; not called where there is none at all.

    Returns:
        ``spec``; ``videos`` found; ``videos_failed``, those with an error row; ``segments`` with ``total``, ``done`` by
        this run, ``skipped`` because the store has them and ``failed`` without features; ``rows`` written by this run;
        ``seconds``. A run that had work to do writes the same into ``<store>/runs/<time>-<id>/run.json``, with the
        rates, the use of each stage and the cost (:meth:`workflows.progress.Progress.totals`), and names it in ``run``.

    Raises:
        InputError: no video at ``videos``, or a video id that belongs to another file in the store.
        AmbiguousNamesError: two videos of one id.
    """
    check(spec)
    if price is not None and not math.isfinite(price):
        raise InputError("price", expected="a number", found=str(price))
    started = time.monotonic()
    sources = video_sources(videos, VIDEO_SUFFIXES, video_ids=video_ids)
    store = FeatureStore.create(store_uri, spec)
    new = drop_changed(store, sources, VIDEO_SUFFIXES)
    failed, damaged = _failed(store, sources)
    leave = set() if retry_failed else failed - damaged
    to_probe = [source for source in new.values() if (source.video_id, WHOLE_VIDEO) not in leave]

    with ray_session(address) if to_probe else nullcontext():
        if to_probe:
            _probe_all(store, to_probe, failed)
        units = _plan(store, sources)
        finished = store.units() - (failed if retry_failed else set())
        settled = finished | leave  # once: made for each unit, this was the square of their number
        todo = [u for u in units if (u.video_id, u.segment) not in settled]
        say(f"{len(sources)} videos, {len(units)} segments, {len(todo)} to do")
        told = partial(_tell, on_progress, len(units) - len(todo), len(units))
        told(0)
        work: dict[str, Any] = {"rows": 0}
        if todo:
            versions = {source.video_id: source.version for source in sources}
            how: dict[str, Any] = {"actors": actors, "gpus_per_actor": gpus_per_actor, "price": price}
            with ray_session(address):
                if gpus_per_actor and not (address or os.environ.get("RAY_ADDRESS") or _resources()[1]):
                    # A cluster may grow some; this machine will not, and Ray would wait for them for ever.
                    raise InputError("GPUs per actor", expected="a GPU on this machine", found="none")
                through = Through(units, todo, finished, on_video) if on_video else None
                work = _extract_all(store, todo, versions, told, through, **how, weights=weights, flow=flow)

    stored = store.units()
    attempted = {(u.video_id, u.segment) for u in todo}
    planned = {(u.video_id, u.segment) for u in units}
    summary = {
        "spec": spec.spec_id,
        "videos": len(sources),
        "videos_failed": len({video for video, _ in _failed(store, sources)[0]}),
        "segments": {
            "total": len(planned),
            "done": len(planned & stored & attempted),
            "skipped": len(planned & stored - attempted),
            "failed": len(planned - stored),
        },
        "rows": work.pop("rows"),
        "seconds": round(time.monotonic() - started, 2),
    }
    if todo:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        summary["run"] = files.join(store.uri, "runs", name, "run.json")
        files.write_json(summary["run"], summary | {"work": work})
    return summary


def probe_videos(
    videos: Videos, store_uri: str, *, spec: FeatureSpec, require: Callable[[VideoInfo], None] | None = None
) -> None:
    """Look at the videos that the store does not know, as :func:`extract` does, which then need not.

    Args:
        require: raises a :class:`VideoError` for a video that is not to be extracted: an error row of the store.
    """
    sources = video_sources(videos, VIDEO_SUFFIXES)
    store = FeatureStore.create(store_uri, spec)
    new = drop_changed(store, sources, VIDEO_SUFFIXES)
    failed, damaged = _failed(store, sources)
    to_probe = [source for source in new.values() if (source.video_id, WHOLE_VIDEO) not in failed - damaged]
    if to_probe:
        with ray_session():
            _probe_all(store, to_probe, failed, require)


def _tell(on_progress: Callable[[int, int], None] | None, before: int, total: int, done: int) -> None:
    if on_progress is not None:
        on_progress(before + done, total)


def _failed(store: FeatureStore, sources: Iterable[Source]) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """(video_id, segment) of the error rows that concern the sources as they are now; those of them that are damaged
    in parts alone. Rows of what a source was before are dropped."""
    versions = {source.video_id: source.version for source in sources}
    failed, damaged = set(), set()
    for row in store.errors().to_dict("records"):
        video_id, segment = row["video_id"], row["segment"]
        if row["version"] == versions.get(video_id):
            failed.add((video_id, segment))
            if row["stage"] == "damage":
                damaged.add((video_id, segment))
        elif video_id in versions:
            store.clear_error(video_id, segment)
    return failed, damaged


def _probe_all(
    store: FeatureStore,
    sources: list[Source],
    failed: set[tuple[str, int]],
    require: Callable[[VideoInfo], None] | None = None,
) -> None:
    """Look at videos, in parallel; write the videos table, and an error row for each that is none."""
    batches = [sources[i : i + _PROBES_PER_TASK] for i in range(0, len(sources), _PROBES_PER_TASK)]
    probe_some = ray.remote(_probe_some)
    waiting = [probe_some.remote(batch, require) for batch in batches]
    rows: list[dict[str, Any]] = []
    while waiting:
        ready, waiting = ray.wait(waiting)
        for source, info in ray.get(ready[0]):
            if isinstance(info, Exception):
                store.write_error(
                    source.video_id, WHOLE_VIDEO, uri=source.uri, version=source.version, stage="probe", error=info
                )
                continue
            if (source.video_id, WHOLE_VIDEO) in failed:
                store.clear_error(source.video_id, WHOLE_VIDEO)
            columns = asdict(info)
            del columns["vfr"]
            rows.append(columns | {"video_id": source.video_id, "version": source.version})
        if rows and (len(rows) >= _VIDEOS_PER_WRITE or not waiting):
            store.write_videos(rows)
            rows = []


def _probe_some(
    sources: list[Source], require: Callable[[VideoInfo], None] | None = None
) -> list[tuple[Source, VideoInfo | Exception]]:
    found: list[tuple[Source, VideoInfo | Exception]] = []
    for source in sources:
        try:
            info = guarded(probe, source.uri, uri=source.uri, limit_s=_PROBE_LIMIT_S)
            if require is not None:
                require(info)
            found.append((source, info))
        except ForbiddenError as error:  # one that may not be read, in a folder that may be listed
            why = VideoError(source.uri, "unreadable", expected=error.expected, found=error.found)
            found.append((source, why))
        except (StorageError, GuardError):
            raise
        except Exception as error:  # whatever a file does, the others go on
            found.append((source, error))
    return found


def _plan(store: FeatureStore, sources: list[Source]) -> list[VideoSegment]:
    """The units of every source that the videos table describes as it is now."""
    known = {(row["video_id"], row["version"]): row for row in known_videos(store, VIDEO_SUFFIXES)}
    units: list[VideoSegment] = []
    for source in sources:
        row = known.get((source.video_id, source.version))
        if row is not None:
            about = {name: row[name] for name in ("duration", "fps", "width", "height", "codec", "rotation", "frames")}
            # Where the file is now; it may have moved since it was probed.
            info = VideoInfo(uri=source.uri, vfr=False, **about)
            units += plan_units(source.video_id, info, store.spec)
    return units


def _extract_all(
    store: FeatureStore,
    units: list[VideoSegment],
    versions: dict[str, str],
    told: Callable[[int], None],
    through: Through | None,
    *,
    actors: int | None,
    gpus_per_actor: float | None,
    price: float | None,
    **extractor: Any,
) -> dict[str, Any]:
    """Run the stages over the units; what `run.json` says of the work."""
    shared = share(nodes(), actors=actors, gpus_per_actor=gpus_per_actor)
    on_cpus = _resources()[0] - shared.actors * shared.actor_cpus
    slots = {"decode": max(1, int(on_cpus / shared.decode_cpus)), "backbone": shared.actors}
    if store.spec.tracker:
        slots = {"track": slots["decode"]} | slots
    progress = Progress(Counter(unit.video_id for unit in units), slots, _resources)
    failure: BalletalError | None = None
    try:
        for unit in stages(store, units, versions, shared, **extractor).iter_rows():
            progress.add(unit)
            told(progress.done)
            if through:
                through.add(unit)
    except StorageError as error:
        # As it was: Ray adds lines of its own to an error's first argument.
        cause = getattr(error, "cause", error)
        failure = StorageError(str(cause.where).splitlines()[0], expected=cause.expected, found=cause.found)
    except (RayActorError, WorkerCrashedError, OutOfMemoryError) as error:
        failure = BalletalError(
            "a process of the job died again and again, most likely for want of memory "
            f"({str(error).splitlines()[0]}). "
            "What is done is kept: the same command goes on from there"
        )
    if failure is not None:
        # The error's frames hold the job's actors, and these their CPUs, which the next job of this Ray would await.
        gc.collect()
        raise failure
    return {"rows": progress.rows} | progress.totals(price)


def _resources() -> tuple[float, float]:
    """CPUs and GPUs of the cluster now."""
    total = ray.cluster_resources()
    return total.get("CPU", 1.0), total.get("GPU", 0.0)


def main(
    videos: Annotated[str, typer.Option(help="Folder of videos, one video, or a URI of either.")],
    store: Annotated[str, typer.Option(help="Feature store: a folder or URI.")],
    backbone: Annotated[str, typer.Option(help="Network that makes the features.")] = "i3d-rgb-kinetics400",
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Weights: a name or a file, once a stream.", show_default="its own"),
    ] = None,
    fps: Annotated[float, typer.Option(help="Analysis rate, frames a second.")] = 25.0,
    window: Annotated[int, typer.Option(help="Analysis frames that a feature sees.")] = 16,
    stride: Annotated[int, typer.Option(help="Analysis frames between features.")] = 8,
    mode: Annotated[
        Literal["windowed", "dense"],
        typer.Option(help="Each window through the network alone, or the network over the whole video."),
    ] = "windowed",
    crop: Annotated[
        Crop, typer.Option(help="Central square, whole picture squeezed into one, or a square that follows the dancer.")
    ] = "dancer",
    dtype: Annotated[
        Dtype, typer.Option(help="Arithmetic; the store keeps float32 for float32 and float16 otherwise.")
    ] = "bfloat16",
    flow: Annotated[str, typer.Option(help="Optical flow: dis, farneback, or the file of a module.")] = "dis",
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Of the videos as a mirror shows them: another spec.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    video_id: Annotated[
        VideoIds, typer.Option(help="Call videos by file name without suffix, or by path below --videos.")
    ] = "stem",
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Most backbone actors; for a cluster that grows.", show_default="as fit"),
    ] = None,
    gpus_per_actor: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="GPUs of an actor; a fraction shares one.", show_default="0.5 where there are GPUs"
        ),
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of an hour of the cluster, to reckon the cost.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Extract features from videos into a feature store. What is there already is not done again."""
    spec = spec_for(
        backbone,
        weights=weights,
        fps=fps,
        window=window,
        stride=stride,
        mode=mode,
        crop=crop,
        dtype=dtype,
        flow=flow,
        mirror=mirror,
    )
    try:
        summary = extract(
            videos,
            store,
            spec=spec,
            weights=weights,
            flow=flow,
            video_ids=video_id,
            retry_failed=retry_failed,
            actors=actors,
            gpus_per_actor=gpus_per_actor,
            price=price,
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
