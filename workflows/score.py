"""Score videos, or a feature store, with a bundle: detections for every video.

videos -> (workflows.extract) -> store -> (workflows.scoring) -> detections/ -> detections.parquet, detections.json

What is scored already, of the same version and with the same bundle and options, is not scored again.
"""

import math
import time
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
import typer

from balletal import files
from balletal.detections import EVERYONE, DetectionStore
from balletal.errors import InputError
from balletal.features.extractor import Weights
from balletal.features.store import WHOLE_VIDEO, FeatureStore
from balletal.parquet import write_table
from balletal.tal.localizer import Localizer
from balletal.video.probe import VIDEO_SUFFIXES
from schemas import arrow
from workflows.cluster import ray_session
from workflows.console import SOME_VIDEOS_FAILED, finish, print_json, run, say
from workflows.extract import extract
from workflows.scoring import Failure, OnProgress, OnVideos, Scoring
from workflows.sources import Shard, Source, VideoIds, Videos, video_sources
from workflows.tables import remove_detections, write_detections

MOST_DETECTIONS = 1_000_000
"""Of more there are the parts alone, and no single table, which would have to be made in memory."""


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
    since: datetime | None = None,
    shard: Shard | None = None,
    most: int | None = MOST_DETECTIONS,
    address: str | None = None,
    on_progress: OnProgress | None = None,
    on_videos: OnVideos | None = None,
) -> dict[str, Any]:
    """Find steps in ``videos``, or in the videos of ``store``, and write the results into ``out``.

    Videos go through :func:`workflows.extract.extract` into a feature store, and each is localized as soon as its
    features are complete. What is found is committed part by part below ``<out>/detections``
    (:mod:`balletal.detections`): a run that is killed is continued by the next, and one that ended is repeated for
    videos that are new, or have changed, or whose features have. Another bundle, or other options, make other parts
    beside those.

    Written at the end, of the videos of this run's listing: ``detections.parquet`` (schemas.arrow.DETECTIONS, or
    TAGGED_DETECTIONS of a bundle that tells tags), ``detections.json`` (ActivityNet results), ``run.json``, and
    ``errors.parquet`` (schemas.arrow.ERRORS) when a video failed. A shard writes the last two below
    ``shards/<i>of<n>`` and leaves the first two to a run without one, which finds nothing else to do.

    Args:
        bundle: readable on every node, like the store.
        videos: a folder, a file, or a URI of either; or URIs by video id.
        features: where the features of ``videos`` go; default: ``<out>/store``. Bundles of one spec may share them.
        min_score, top_k: of a video's detections, those of at least this score, and at most so many.
        coarse: detect the coarse classes of a bundle of fine labels.
        weights, flow: of the backbone, where they are not its own: see :func:`workflows.extract.extract`.
        since: look only at videos whose files were changed then or later.
        shard: look only at this part of the videos; the others are other runs', which may run at the same time.
        most: the most detections of which the two tables are written; None: any number.

    Returns:
        What ``run.json`` holds: ``bundle``, ``spec``, ``store``, ``parts`` (the URI of the detections); of the listing
        ``videos``, ``videos_failed`` and ``detections``; of this run ``scored``, how many videos it localized,
        ``options`` and ``seconds``.

    Raises:
        InputError: no bundle, no store, no video; ``coarse``, but the bundle's labels have no coarse names; ``since``
            without ``videos``.
        SpecMismatchError: the store holds features of other specs than the bundle's; both are named.
    """
    if (videos is None) == (store is None):
        raise InputError("score", expected="videos or a store", found="both" if videos else "neither")
    if since is not None and videos is None:
        raise InputError("score", expected="videos, whose files have a time", found="since, and a store")
    started = time.monotonic()
    files.absolute(out)  # an empty one is told: what is joined to it would lie in this folder
    localizer = Localizer.load(bundle)
    localizer.class_names(coarse)  # told before any work
    options: dict[str, Any] = {"min_score": min_score, "top_k": top_k, "coarse": coarse}
    if videos is None:
        opened = FeatureStore.open_for(str(store), localizer.spec, owner=f"bundle {bundle}")
        listed = _stored(opened)
    else:
        listed = video_sources(videos, VIDEO_SUFFIXES, video_ids=video_ids)
        opened = FeatureStore.create(features or files.join(out, "store"), localizer.spec)
    listed = [source for source in listed if shard is None or shard.has(source.video_id)]
    chosen = [source for source in listed if since is None or (source.modified_s or math.inf) >= since.timestamp()]
    say(f"{len(chosen)} videos, {localizer.name} ({localizer.digest[:12]})")
    about = {"bundle": localizer.digest, "name": localizer.name, "spec": localizer.spec.spec_id}
    into = DetectionStore.create(files.join(out, "detections"), about | options)
    owner = str(shard) if shard else EVERYONE
    with ray_session(address):
        scoring = Scoring(files.absolute(bundle), opened, into, options, owner, on_progress, on_videos)
        if videos is not None and chosen:
            how: dict[str, Any] = {"weights": weights, "flow": flow, "address": address}
            told = partial(on_progress, "extracting") if on_progress else None
            on_video = partial(scoring.beside, {source.video_id: source.version for source in chosen})
            extract(chosen, opened.uri, spec=localizer.spec, on_progress=told, on_video=on_video, **how)
        scoring.rest(chosen)

    versions = {source.video_id: source.version for source in listed}
    errors = opened.errors() if videos is not None else opened.errors()[:0]
    errors = errors[errors["video_id"].isin(versions)]
    errors = pd.concat([errors, _error_rows(scoring.failures.values(), opened)], ignore_index=True)
    current = _tidy(into, owner, versions, scoring.failures)
    place = files.join(out, "shards", owner) if shard else out
    _write_errors(place, errors)
    if shard is None:
        _write_tables(out, into, current, localizer, most)
    summary = {
        "bundle": {"uri": bundle, "name": localizer.name, "digest": localizer.digest},
        "spec": localizer.spec.spec_id,
        "store": opened.uri,
        "parts": into.folder,
        "videos": len({*current["video_id"], *errors["video_id"]}),
        "videos_failed": errors["video_id"].nunique(),
        "scored": scoring.scored,
        "detections": int(current["detections"].sum()),
        **options,
        "errors": files.join(place, "errors.parquet") if len(errors) else None,
        "seconds": round(time.monotonic() - started, 2),
    }
    files.write_json(files.join(place, "run.json"), summary)
    return summary


def _stored(store: FeatureStore) -> list[Source]:
    """The videos of a store, with the versions that it knows."""
    known = store.videos()
    versions = dict(zip(known["video_id"], known["version"], strict=True))
    return [Source(video, store.uri, versions.get(video, "")) for video in store.video_ids()]


def _tidy(into: DetectionStore, owner: str, versions: Mapping[str, str], failed: Collection[str]) -> pd.DataFrame:
    """Join small parts, without the detections that are not true any more; the rows of videos that are."""
    scored = into.videos()
    scored = scored[scored["video_id"].isin(versions)]
    true = (scored["video_id"].map(versions) == scored["version"]) & ~scored["video_id"].isin(failed)
    into.compact(owner=owner, forget=set(scored.loc[~true, "video_id"]))
    return scored[true]


def _write_tables(out: str, into: DetectionStore, scored: pd.DataFrame, localizer: Localizer, most: int | None) -> None:
    """Write `detections.parquet` and `detections.json`; where there are too many, remove those of an earlier run."""
    if most is not None and scored["detections"].sum() > most:
        say(f"more than {most} detections: they are in {into.folder} alone")
        remove_detections(out)
        return
    schema = arrow.TAGGED_DETECTIONS if localizer.tags else arrow.DETECTIONS
    table = pa.concat_tables([schema.empty_table(), *into.tables(scored["video_id"])]).to_pandas()
    # Stable: within a video the localizer's order stays.
    write_detections(out, table.sort_values("video_id", kind="stable"), localizer, sorted(scored["video_id"]))


def _error_rows(failures: Iterable[Failure], store: FeatureStore) -> pd.DataFrame:
    sources = store.videos().drop_duplicates("video_id", keep="last").set_index("video_id")
    rows = []
    for video_id, kind, message in failures:
        about = sources.loc[video_id] if video_id in sources.index else {"uri": store.uri, "version": ""}
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
    since: Annotated[
        str | None, typer.Option(help="Only videos changed since: 2026-11-22, 2026-11-22T06:00; UTC unless it says.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: part i of n, for n machines at the same time.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Find steps in videos, or in features, with a bundle."""
    if (videos is None) == (store is None):
        raise typer.BadParameter("give one of --videos and --store", param_hint="--videos")
    if since is not None and videos is None:
        raise typer.BadParameter("a store's videos have no time", param_hint="--since")
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
        since=None if since is None else _time(since),
        shard=None if shard is None else _shard(shard),
        address=address,
    )
    if json:
        print_json(summary)
    else:
        say(
            f"{summary['detections']} detections in {summary['videos']} videos, {summary['scored']} of them new, "
            f"{summary['seconds']} s -> {out}"
        )
    if summary["videos_failed"]:
        say(f"{summary['videos_failed']} videos failed, wholly or in part; see {summary['errors']}")
        finish(SOME_VIDEOS_FAILED)


def _time(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date or time of ISO 8601", param_hint="--since") from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from None


if __name__ == "__main__":
    run(main)
