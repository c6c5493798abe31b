"""What features are worth: mAP of a model on each of several stores, cross-validated over all of their videos.

`python -m tests.benchmarks.downstream ANNOTATIONS STORE [STORE ...] [--folds 5] [--every 1]` prints a Markdown table.

Each fold's projection and `cnn` (recipe `localize`) see the other folds alone; its detections are kept. In the end the
detections of all folds are measured at once, so that each video counts once and no number stands on three videos.
Folds are drawn by video: other videos of the same choreography may be trained on.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from balletal.annotations import Split, read_annotations, save_split
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.metrics.boundaries import boundary_errors
from balletal.metrics.detection import evaluate_detections
from balletal.projection import Projection
from workflows.cluster import ray_session
from workflows.compare import ComparisonConfig, compare
from workflows.config import validated
from workflows.fit_projection import fit_projection

LABELS = "annchor-coarse"
# Of the `localize` recipe, for few videos. A feature every 0.32 s and more is cut into sub-steps of 0.16 s.
EPOCHS, BATCH, SUBSTEP_S = 60, 4, 0.16


def measure(annotations: str, store: FeatureStore, folds: int, dim: int, scratch: Path) -> dict[str, Any]:
    """The pooled metrics of one store."""
    labels = LabelSet.load(LABELS)
    annotated = read_annotations(annotations, labels).select(store.video_ids())
    videos = sorted(map(str, annotated.videos["video_id"]), key=lambda name: hashlib.sha256(name.encode()).digest())
    found = []
    upsample = max(1, round(store.spec.stride_s / SUBSTEP_S))
    for k in range(folds):
        held = videos[k::folds]
        split = Split("video", k, {video: "validation" if video in held else "training" for video in videos})
        out = scratch / f"fold{k}"
        out.mkdir(parents=True)
        save_split(str(out / "split.json"), split)
        config = {
            "annotations": annotations,
            "out": str(out / "comparison"),
            "models": ["cnn"],
            "recipes": ["localize"],
            "split": {"file": str(out / "split.json")},
            "overrides": {
                "localize": {"model": {"upsample": upsample}, "optim": {"batch_size": BATCH, "epochs": EPOCHS}}
            },
        }
        fit_projection(
            store.uri,
            str(out / "projection"),
            dim=dim,
            spec_id=store.spec.spec_id,
            video_ids=split.video_ids("training"),
        )
        projection = Projection.load(str(out / "projection"))
        compare(validated(ComparisonConfig, config, where="benchmark"), store, projection, split)
        found.append(pd.read_parquet(out / "comparison" / "runs" / "cnn-localize" / "detections.parquet"))
    segments, detections = annotated.segments, pd.concat(found, ignore_index=True)
    return evaluate_detections(segments, detections) | {"boundaries": boundary_errors(segments, detections)}


def thinned(store: FeatureStore, every: int, uri: str) -> FeatureStore:
    """A store of every so many-th feature: for dense ones, what a longer stride gives."""
    thin = FeatureStore.create(uri, store.spec.replace(stride=store.spec.stride * every))
    for video in store.iter_videos():
        thin.write_unit(video.video_id, 0, 0, np.ascontiguousarray(video.features[::every]))
    return thin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations")
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--dim", type=int, default=256, help="of the projection")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th feature")
    args = parser.parse_args()
    print("| features | average mAP 0.3 : 0.7 | mAP@0.5 | median error start / end | videos | seconds |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for uri in args.stores:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="downstream-") as scratch, ray_session(num_cpus=1):
            store = FeatureStore.open(uri)
            if args.every > 1:
                store = thinned(store, args.every, f"{scratch}/store")
            result = measure(args.annotations, store, args.folds, args.dim, Path(scratch))
        spec, edges = store.spec, result["boundaries"]
        half = result["map"][result["tiou"].index(0.5)]
        print(
            f"| {spec.mode} {spec.window}/{spec.stride} {spec.crop} ({Path(uri).name}) | {result['average_map']:.3f} | "
            f"{half:.3f} | {edges['start_median_s']:.2f} / {edges['end_median_s']:.2f} s | {result['videos']} | "
            f"{time.monotonic() - started:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
