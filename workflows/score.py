"""Score videos, or a feature store, with a bundle: detections for every video.

videos -> (workflows.extract) -> store -> video ids -> localizer actors -> detections.parquet, detections.json
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import torch
import typer
from ray.data import ActorPoolStrategy

from balletal import files
from balletal.errors import InputError
from balletal.features.extractor import Weights
from balletal.features.parquet import write_table
from balletal.features.store import WHOLE_VIDEO, FeatureStore, VideoFeatures
from balletal.segments import DETECTION_COLUMNS
from balletal.tal.localizer import Localizer
from balletal.video.probe import VIDEO_SUFFIXES
from schemas import arrow
from workflows.cluster import ray_session
from workflows.console import SOME_VIDEOS_FAILED, finish, print_json, run, say
from workflows.extract import extract
from workflows.sources import VideoIds, Videos, video_sources
from workflows.tables import write_detections

VIDEOS_PER_TASK = 16

OnProgress = Callable[[str, int, int], None]
"""Is told how far a run is: the stage (``extracting``, ``localizing``), what is done (segments, videos), and of how
many."""
OnVideos = Callable[[dict[str, pd.DataFrame]], None]
"""Is given the detections (segment tables with ``score``) of videos that are finished, by video id."""


def score(
    bundle: str,
    out: str,
    *,
    videos: Videos | None = None,
    store: str | None = None,
    features: str | None = None,
    min_score: float = 0.0,
    top_k: int | None = None,
    coarse: bool = False,
    weights: Weights = None,
    flow: str | None = None,
    video_ids: VideoIds = "stem",
    address: str | None = None,
    on_progress: OnProgress | None = None,
    on_videos: OnVideos | None = None,
) -> dict[str, Any]:
    """Find steps in ``videos``, or in the videos of ``store``, and write the results into ``out``.

    Videos go through :func:`workflows.extract.extract` into a feature store first, so that a second run extracts only
    what is missing. Written: ``detections.parquet`` (schemas.arrow.DETECTIONS, or TAGGED_DETECTIONS of a bundle that
    tells tags), ``detections.json`` (ActivityNet results), ``run.json``, and ``errors.parquet`` (schemas.arrow.ERRORS)
    when a video failed.

    Args:
        bundle: readable on every node, like the store.
        videos: a folder, a file, or a URI of either; or URIs by video id.
        features: where the features of ``videos`` go; default: ``<out>/store``. Bundles of one spec may share them.
        min_score, top_k: of a video's detections, those of at least this score, and at most so many.
        coarse: detect the coarse classes of a bundle of fine labels.
        weights, flow: of the backbone, where they are not its own: see :func:`workflows.extract.extract`.

    Returns:
        What ``run.json`` holds.

    Raises:
        InputError: no bundle, no store, no video; ``coarse``, but the bundle's labels have no coarse names.
        SpecMismatchError: the store holds features of other specs than the bundle's; both are named.
    """
    if (videos is None) == (store is None):
        raise InputError("score", expected="videos or a store", found="both" if videos else "neither")
    started = time.monotonic()
    localizer = Localizer.load(bundle)
    localizer.class_names(coarse)  # told before any work
    with ray_session(address):
        if videos is not None:
            store = features or files.join(out, "store")
            how: dict[str, Any] = {"weights": weights, "flow": flow, "video_ids": video_ids, "address": address}
            told = partial(on_progress, "extracting") if on_progress else None
            extract(videos, store, spec=localizer.spec, on_progress=told, **how)
            opened = FeatureStore.open(store, localizer.spec.spec_id)
            wanted = {source.video_id for source in video_sources(videos, VIDEO_SUFFIXES, video_ids=video_ids)}
            chosen = [video for video in opened.video_ids() if video in wanted]
            errors = opened.errors()
            errors = errors[errors["video_id"].isin(wanted)]
        else:
            opened = FeatureStore.open_for(str(store), localizer.spec, owner=f"bundle {bundle}")
            chosen, errors = opened.video_ids(), opened.errors()[:0]
        say(f"{len(chosen)} videos, {localizer.name} ({localizer.digest[:12]})")
        known = opened.videos()
        options = {"min_score": min_score, "top_k": top_k, "coarse": coarse}
        detections, failures = _localize_all(
            files.absolute(bundle), opened, chosen, known, options, on_progress, on_videos
        )

    errors = pd.concat([errors, _error_rows(failures, known, opened.uri)], ignore_index=True)
    failed = {*errors["video_id"]}
    write_detections(out, detections, localizer, [video for video in chosen if video not in {f[0] for f in failures}])
    _write_errors(out, errors)
    summary = {
        "bundle": {"uri": bundle, "name": localizer.name, "digest": localizer.digest},
        "spec": localizer.spec.spec_id,
        "store": opened.uri,
        "videos": len({*chosen, *failed}),
        "videos_failed": len(failed),
        "detections": len(detections),
        **options,
        "seconds": round(time.monotonic() - started, 2),
    }
    files.write_json(files.join(out, "run.json"), summary)
    return summary


def _localize_all(
    bundle: str,
    store: FeatureStore,
    video_ids: list[str],
    known: pd.DataFrame,
    options: dict[str, Any],
    on_progress: OnProgress | None,
    on_videos: OnVideos | None,
) -> tuple[pd.DataFrame, list[tuple[str, str, str]]]:
    """Detections of all videos by video id; and (video_id, type, message) of those that failed."""
    if not video_ids:
        return _ROWS.empty_table().to_pandas()[_TOLD], []
    # A video's imported features have a row of their own beside the file's, without a duration.
    timed = known.dropna(subset=["duration"])
    durations = dict(zip(timed["video_id"], timed["duration"], strict=True))
    rows = [{"video_id": video, "duration": float(durations.get(video, np.nan))} for video in video_ids]
    tasks = -(-len(rows) // VIDEOS_PER_TASK)
    results = (
        ray.data.from_items(rows, override_num_blocks=tasks)
        .map_batches(
            _Localize,
            fn_constructor_args=(bundle, store, options),
            batch_size=VIDEOS_PER_TASK,
            compute=ActorPoolStrategy(min_size=1, max_size=min(tasks, max(1, int(ray.cluster_resources()["CPU"]) - 1))),
            num_cpus=1,
        )
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    tables, done = [_ROWS.empty_table()], 0
    for result in results:
        tables.append(result)
        found = result.to_pandas()
        done += found["video_id"].nunique()
        if on_videos:
            good = found[found["error"].isna()]
            on_videos({str(video_id): _detections(rows) for video_id, rows in good.groupby("video_id")})
        if on_progress:
            on_progress("localizing", done, len(video_ids))
    # Stable: within a video the localizer's order stays.
    table = pa.concat_tables(tables).to_pandas().sort_values("video_id", kind="stable", ignore_index=True)
    failures = [(row.video_id, row.error, row.message) for row in table[table["error"].notna()].itertuples()]
    return _detections(table), failures


def _detections(rows: pd.DataFrame) -> pd.DataFrame:
    """The detections among what localizing tasks gave."""
    return rows.loc[rows["label"].notna(), _TOLD].reset_index(drop=True)


_TOLD = [*DETECTION_COLUMNS, "tags"]

# What a localizing task gives: detections; one row for each video that failed, and for each in which nothing was found.
_ROWS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("video_id", "label", "error", "message")),
        *(pa.field(name, pa.float64()) for name in ("start", "end", "score")),
        pa.field("tags", pa.list_(pa.string())),  # null where the bundle tells none
    ]
)


class _Localize:
    """The model, in an actor. A video that cannot be localized gives one row that says why."""

    def __init__(self, bundle: str, store: FeatureStore, options: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.localizer = Localizer.load(bundle)
        self.store = store
        self.options = options  # of Localizer.localize

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        durations = dict(zip(batch["video_id"], batch["duration"], strict=True))
        rows: list[dict[str, Any]] = []
        for video_id, video in _read(self.store, list(batch["video_id"])):
            try:
                if isinstance(video, Exception):
                    raise video
                known = None if np.isnan(durations[video_id]) else float(durations[video_id])
                found = self.localizer.localize(video, duration=known, **self.options).to_dict("records")
                rows += found or [{"video_id": video_id}]
            except Exception as error:  # whatever a video does, the others go on
                rows.append({"video_id": video_id, "error": type(error).__name__, "message": str(error)})
        return pa.Table.from_pylist(rows, schema=_ROWS)


def _read(store: FeatureStore, video_ids: list[str]) -> Iterator[tuple[str, VideoFeatures | Exception]]:
    """Read ahead, and begin again behind a video that cannot be read."""
    at = 0
    while at < len(video_ids):
        try:
            for video in store.iter_videos(video_ids[at:]):
                yield video_ids[at], video
                at += 1
        except InputError as error:
            yield video_ids[at], error
            at += 1


def _error_rows(failures: list[tuple[str, str, str]], known: pd.DataFrame, store_uri: str) -> pd.DataFrame:
    sources = known.drop_duplicates("video_id", keep="last").set_index("video_id")
    rows = []
    for video_id, kind, message in failures:
        about = sources.loc[video_id] if video_id in sources.index else {"uri": store_uri, "version": ""}
        place = {"uri": about["uri"], "version": about["version"], "segment": WHOLE_VIDEO, "stage": "localize"}
        rows.append({"video_id": video_id, **place, "type": kind, "message": message})
    return pd.DataFrame(rows, columns=["video_id", *arrow.ERRORS.names])


def _write_errors(out: str, errors: pd.DataFrame) -> None:
    """Write `errors.parquet`, or remove the one of an earlier run."""
    uri = files.join(out, "errors.parquet")
    if len(errors):
        write_table(uri, pa.Table.from_pandas(errors[arrow.ERRORS.names], arrow.ERRORS, preserve_index=False))
    else:
        files.remove(uri)


def main(
    bundle: Annotated[str, typer.Option(help="Bundle: a folder or URI that `balletal train` wrote.")],
    out: Annotated[str, typer.Option(help="Folder or URI for the results.")],
    videos: Annotated[str | None, typer.Option(help="Folder of videos, one video, or a URI of either.")] = None,
    store: Annotated[str | None, typer.Option(help="Feature store, instead of videos.")] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave out detections below this score.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="At most so many detections a video.")] = None,
    coarse: Annotated[bool, typer.Option("--coarse", help="Answer in the coarse classes of a fine bundle.")] = False,
    weights: Annotated[
        list[str] | None, typer.Option(help="Backbone weights: a name or a file, once a stream.", show_default="own")
    ] = None,
    flow: Annotated[str | None, typer.Option(help="File of the optical flow module, if the bundle wants one.")] = None,
    video_id: Annotated[
        VideoIds, typer.Option(help="Call videos by file name without suffix, or by path below --videos.")
    ] = "stem",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Find steps in videos, or in features, with a bundle."""
    if (videos is None) == (store is None):
        raise typer.BadParameter("give one of --videos and --store", param_hint="--videos")
    summary = score(
        bundle,
        out,
        videos=videos,
        store=store,
        min_score=min_score,
        top_k=top_k,
        coarse=coarse,
        weights=weights,
        flow=flow,
        video_ids=video_id,
        address=address,
    )
    if json:
        print_json(summary)
    else:
        say(f"{summary['detections']} detections in {summary['videos']} videos, {summary['seconds']} s -> {out}")
    if summary["videos_failed"]:
        say(f"{summary['videos_failed']} videos failed, wholly or in part; see {files.join(out, 'errors.parquet')}")
        finish(SOME_VIDEOS_FAILED)


if __name__ == "__main__":
    run(main)
