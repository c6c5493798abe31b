"""Fit the projection (StandardScaler and PCA) on the features of a store, in one pass on Ray Train workers.

store files -> one share a worker -> moments -> merged on rank 0 -> eigh -> projection.safetensors
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
import torch.distributed as dist
import typer
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer

from balletal import files, projection
from balletal.annotations.splits import load_split
from balletal.errors import BalletalError, InputError
from balletal.features.store import FeatureStore
from balletal.projection import Moments, Projection
from workflows.cluster import ray_session
from workflows.console import print_json, run, say
from workflows.trainer import fit_again

ROWS_PER_UPDATE = 4096


def fit_projection(
    store_uri: str,
    out: str,
    *,
    dim: int = 512,
    spec_id: str | None = None,
    video_ids: list[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Fit on all videos of a store, or on those named, and write the projection into the folder ``out``.

    Each worker takes every n-th video. A Ray dataset split over workers would be the other way; its default split drops
    rows to make the shares equal, and a share of videos needs neither that nor a second copy through the object store.

    Args:
        spec_id: which features, where the store holds several kinds.
        video_ids: such as the training subset of a split: a projection must not see what a model is tested on.
        workers: at most the CPUs that Ray has; None takes up to four.

    Returns:
        ``{"spec", "videos", "rows", "dim", "explained", "workers", "seconds"}``; ``explained`` is the share of the
        variance that the components keep.

    Raises:
        InputError: a video that the store lacks, values that are not finite, more components than rows or columns.
    """
    started = time.monotonic()
    store = FeatureStore.open(store_uri, spec_id)
    known = store.video_ids()
    chosen = known if video_ids is None else sorted(set(video_ids))
    missing = sorted(set(chosen) - set(known))
    if missing:
        raise InputError(
            f"store {store.uri}",
            expected="features of every chosen video",
            found=f"none of {len(missing)} such as {missing[0]}",
        )
    rows = _count_rows(store.files(chosen))
    if not 1 <= dim <= min(rows, store.spec.dim):
        raise InputError(
            "--dim",
            expected=f"1 to {min(rows, store.spec.dim)} for {rows} features of {store.spec.dim}",
            found=str(dim),
        )
    with ray_session(address), tempfile.TemporaryDirectory(prefix="balletal-") as scratch:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        if workers is not None and not 1 <= workers <= cpus:
            raise InputError("--workers", expected=f"1 to {cpus}, the CPUs that Ray has", found=str(workers))
        workers = workers or min(4, cpus, len(chosen))
        say(f"{len(chosen)} videos, {rows} features of {store.spec}, {workers} workers")
        trainer = partial(
            TorchTrainer,
            _fit_loop,  # it may return a value
            train_loop_config={"store": store, "videos": chosen, "dim": dim},
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            # The moments are numpy's and on the CPU, also where the cluster has GPUs.
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(
                name="fit-projection",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=2),  # a worker that is lost
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        result = fit_again(trainer).return_value
    if isinstance(result, BalletalError):
        raise result
    fitted: Projection = result
    if fitted.rows != rows:
        raise InputError(f"store {store.uri}", expected=f"{rows} rows as its files say", found=f"{fitted.rows} read")
    fitted.save(out)
    return {
        "spec": store.spec.spec_id,
        "videos": len(chosen),
        "rows": rows,
        "dim": dim,
        "explained": round(float(fitted.explained_variance.sum() / fitted.total_variance), 6),
        "workers": workers,
        "seconds": round(time.monotonic() - started, 2),
    }


def _fit_loop(config: dict[str, Any]) -> Projection | BalletalError | None:
    """What a Ray Train worker runs; what rank 0 returns reaches the driver."""
    context = get_context()
    return _fit_share(rank=context.get_world_rank(), world=context.get_world_size(), **config)


def _fit_share(
    store: FeatureStore, videos: list[str], dim: int, *, rank: int, world: int
) -> Projection | BalletalError | None:
    """One worker's share of the videos, and on rank 0 the merge and the decomposition.

    Returns:
        On rank 0 the projection, on others None; what failed on any rank, on every rank: a rank that raised would
        leave the others waiting for it.
    """
    failures: list[BalletalError | None] = [None] * world
    moments = Moments(store.spec.dim)
    try:
        moments = moments_of(store, videos[rank::world])
    except BalletalError as error:
        failures[rank] = error
    if world > 1:
        dist.all_gather_object(failures, failures[rank])
    for failure in failures:
        if failure is not None:
            return failure
    _merge_on_rank_0(moments, rank, world)
    return projection.fit(moments, store.spec, dim) if rank == 0 else None


def moments_of(store: FeatureStore, video_ids: list[str]) -> Moments:
    """Moments of the features of some videos, in this process."""
    moments = Moments(store.spec.dim)
    waiting: list[np.ndarray] = []
    for video in store.iter_videos(video_ids):
        waiting.append(video.features)
        if sum(map(len, waiting)) >= ROWS_PER_UPDATE:
            moments.update(np.concatenate(waiting))
            waiting = []
    if waiting:
        moments.update(np.concatenate(waiting))
    return moments


def _merge_on_rank_0(moments: Moments, rank: int, world: int) -> None:
    """Merge by rank, one at a time: memory stays at two D x D matrices, and the result does not depend on timing."""
    dim = len(moments.mean)
    if rank > 0:
        for tensor in (
            torch.tensor([moments.count]),
            torch.from_numpy(moments.mean),
            torch.from_numpy(moments.comoment),
        ):
            dist.send(tensor.contiguous(), dst=0)
        return
    for source in range(1, world):
        count, mean = torch.zeros(1, dtype=torch.int64), torch.zeros(dim, dtype=torch.float64)
        comoment = torch.zeros(dim, dim, dtype=torch.float64)
        for tensor in (count, mean, comoment):
            dist.recv(tensor, src=source)
        moments.merge(Moments.of(int(count), mean.numpy(), comoment.numpy()))


def _count_rows(uris: list[str]) -> int:
    """Rows that the files say they hold, from their footers."""

    def rows(uri: str) -> int:
        try:
            with files.open_file(uri) as file:
                return int(pq.read_metadata(file).num_rows)
        except pa.ArrowInvalid as error:
            raise InputError(uri, expected="a Parquet file", found=str(error).splitlines()[0]) from None

    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(rows, uris))


def _subset(store_uri: str, spec_id: str | None, split_uri: str, subset: str) -> list[str]:
    """The videos of a subset that have features; the annotations that a split was drawn from may know more videos."""
    known = set(FeatureStore.open(store_uri, spec_id).video_ids())
    videos = load_split(split_uri).video_ids(subset)
    chosen = [video for video in videos if video in known]
    if not chosen:
        found = f"{len(videos)} videos, none of them in {store_uri}"
        raise InputError(split_uri, expected=f"videos of subset {subset!r} with features", found=found)
    if len(chosen) < len(videos):
        say(f"{len(videos) - len(chosen)} of {len(videos)} videos of subset {subset} have no features in {store_uri}")
    return chosen


def main(
    store: Annotated[str, typer.Option(help="Feature store: a folder or URI.")],
    out: Annotated[str, typer.Option(help="Folder for projection.safetensors.")],
    dim: Annotated[int, typer.Option(help="Components to keep.")] = 512,
    spec: Annotated[str | None, typer.Option(help="Id of the feature spec, where the store holds several.")] = None,
    split: Annotated[str | None, typer.Option(help="split.json: fit on one subset of it alone.")] = None,
    subset: Annotated[str, typer.Option(help="The subset, with --split.")] = "training",
    workers: Annotated[int | None, typer.Option(help="Ray Train workers; default: up to four.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Fit StandardScaler and PCA on a feature store."""
    summary = fit_projection(
        store,
        out,
        dim=dim,
        spec_id=spec,
        video_ids=_subset(store, spec, split, subset) if split else None,
        workers=workers,
        address=address,
    )
    if json:
        print_json(summary)
    else:
        say(
            f"{summary['rows']} features of {summary['videos']} videos: {summary['dim']} components keep "
            f"{summary['explained']:.1%} of the variance; {summary['seconds']} s; {out}"
        )


if __name__ == "__main__":
    run(main)
