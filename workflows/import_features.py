"""Import released features, one ``.npy`` file a video, into a feature store.

list -> anti-join against the store -> read, check and write, one unit a file, on Ray Data
"""

import time
from functools import partial
from typing import Annotated, Any

import ray
import typer

from balletal.errors import BalletalError
from balletal.features.released import read_npy, released_spec
from balletal.features.store import FeatureStore
from workflows.cluster import ray_session
from workflows.console import SOME_VIDEOS_FAILED, finish, print_json, run, say
from workflows.sources import Source, drop_changed, list_sources

SUFFIXES = (".npy",)
FILES_PER_TASK = 32


def import_features(
    folder: str,
    store_uri: str,
    *,
    fps: float = 25.0,
    window: int = 64,
    stride: int = 64,
    dim: int = 2048,
    backbone: str = "annchor-released",
    retry_failed: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Import a folder of ``.npy`` files. What the store has already is left alone; a file that changed is read again.

    A file that is damaged, has another dimension or holds values that are not finite becomes an error row.

    Args:
        retry_failed: read files again that failed before and have not changed.

    Returns:
        ``videos`` found, of which ``done`` by this run, ``skipped`` because the store has them and ``failed`` (in
        this run or, unless retried, before); ``rows`` written by this run; ``seconds``; ``spec``, the spec's id.

    Raises:
        InputError: nothing at ``folder``, no ``.npy`` file in it, or two of one name.
    """
    started = time.monotonic()
    sources = list_sources(folder, SUFFIXES)
    spec = released_spec(fps=fps, window=window, stride=stride, dim=dim, backbone=backbone)
    store = FeatureStore.create(store_uri, spec)
    new = drop_changed(store, sources, SUFFIXES)
    store.write_videos([_video_row(source) for source in new.values()])

    done = store.units()
    failed = set() if retry_failed else {(row["video_id"], row["version"]) for row in store.errors().to_dict("records")}
    todo = [s for s in sources if (s.video_id, 0) not in done and (s.video_id, s.version) not in failed]
    skipped = sum((s.video_id, 0) in done for s in sources)
    failures = len(sources) - skipped - len(todo)
    say(f"{len(sources)} files: {skipped} imported, {failures} failed before, {len(todo)} to do")

    rows = 0
    if todo:
        with ray_session(address):
            counts = _import_all(store, todo)
        rows = sum(counts)
        failures += counts.count(0)
    return {
        "spec": spec.spec_id,
        "videos": len(sources),
        "done": len(sources) - skipped - failures,
        "skipped": skipped,
        "failed": failures,
        "rows": rows,
        "seconds": round(time.monotonic() - started, 2),
    }


def _import_all(store: FeatureStore, sources: list[Source]) -> list[int]:
    """Rows written for each source, 0 for one that became an error row; in any order."""
    manifest = [{"video_id": s.video_id, "uri": s.uri, "version": s.version} for s in sources]
    dataset = ray.data.from_items(manifest, override_num_blocks=-(-len(manifest) // FILES_PER_TASK))
    return [result["rows"] for result in dataset.map(partial(_import_one, store)).iter_rows()]


def _import_one(store: FeatureStore, row: dict[str, Any]) -> dict[str, Any]:
    try:
        features = read_npy(row["uri"], store.spec)
        store.write_unit(row["video_id"], 0, 0, features)
        store.clear_error(row["video_id"], 0)
    except (BalletalError, OSError) as error:  # a store that cannot be written fails again here, and ends the job
        store.write_error(row["video_id"], 0, uri=row["uri"], version=row["version"], stage="import", error=error)
        return {"rows": 0}
    return {"rows": len(features)}


def _video_row(source: Source) -> dict[str, Any]:
    """What is known of a video by its features alone."""
    return {"video_id": source.video_id, "uri": source.uri, "version": source.version}


def main(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URI of .npy files of shape (T, dim).")],
    store: Annotated[str, typer.Option(help="Feature store: a folder or URI.")],
    fps: Annotated[float, typer.Option(help="Frames a second that the features were made at.")] = 25.0,
    window: Annotated[int, typer.Option(help="Frames that one feature saw.")] = 64,
    stride: Annotated[int, typer.Option(help="Frames between features.")] = 64,
    dim: Annotated[int, typer.Option(help="Length of a feature.")] = 2048,
    backbone: Annotated[str, typer.Option(help="What to call the network that made them.")] = "annchor-released",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Read files again that failed before.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Import released features (.npy) into a feature store."""
    summary = import_features(
        folder,
        store,
        fps=fps,
        window=window,
        stride=stride,
        dim=dim,
        backbone=backbone,
        retry_failed=retry_failed,
        address=address,
    )
    if json:
        print_json(summary)
    else:
        say(
            f"{summary['videos']} videos: {summary['done']} imported ({summary['rows']} rows), {summary['skipped']} "
            f"there already, {summary['failed']} failed, {summary['seconds']} s; spec {summary['spec']}"
        )
    if summary["failed"]:
        say(f"balletal errors --store {store} says why; --retry-failed tries again")
        finish(SOME_VIDEOS_FAILED)


if __name__ == "__main__":
    run(main)
