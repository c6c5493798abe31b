"""What released features of further videos add to features of our own: `python -m tests.benchmarks.joint`.

AnnChor's released features, one every 2.56 s, are of 816 videos; fourteen of these are there as videos, with features
of our own. In each of five folds by video of these fourteen a ridge regression learns, from the training videos, what
our features (their mean over the 2.56 s) follow from the released ones. Applied to the other 802 and interpolated to
our clips, it gives features to train a cnn on, whose weights the fold's cnn begins with. Nothing of a video that a fold
holds out is seen before it is measured: no feature, no label. Prints what share of the variance of held-out videos the
regressions explain, and the mAP of all folds at once and of each alone.

    balletal import-features ../shared/annchor/Features/i3d_features --store runs/released/store
    balletal extract --videos ../shared/annchor/AnnChor1000-Original-Videos --store runs/videos/store
    python -m tests.benchmarks.joint --released runs/released/store --store runs/videos/store --out runs/joint
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from balletal.annotations import Annotations, Split, cross_validation, make_split, read_annotations
from balletal.backbones.spec import FeatureSpec
from balletal.features.store import FeatureStore, VideoFeatures
from balletal.labels import LabelSet
from balletal.metrics.detection import evaluate_detections
from balletal.tal.localizer import Localizer, localize_videos
from balletal.video.clips import clip_count, clip_times
from workflows.comparison_data import fitted_projection
from workflows.train import prepare, resolve_recipe, train

ANNOTATIONS = "../shared/annchor/Annotation Files/Processed Model JSON Annotation Files/AnnChor1000-TD.json"
PENALTIES = tuple(10.0 ** np.arange(7))
FOLDS, DIM = 5, 256

Rows = NDArray[np.floating]


def pairs(released: FeatureStore, ours: FeatureStore, video_ids: list[str]) -> tuple[Rows, Rows]:
    """Released features, (n, 2048), and the mean of ours over the seconds of each, (n, D)."""
    x, y = [], []
    for theirs, mine in zip(released.iter_videos(video_ids), ours.iter_videos(video_ids), strict=True):
        middle = (mine.start_s + mine.end_s) / 2
        for row, start, end in zip(theirs.features, theirs.start_s, theirs.end_s, strict=True):
            if (inside := (middle >= start) & (middle < end)).any():
                x.append(row)
                y.append(mine.features[inside].mean(axis=0))
    return np.array(x, np.float64), np.array(y, np.float64)


def translated(video: VideoFeatures, spec: FeatureSpec, regression: Pipeline) -> Rows:
    """(clips, D) of ``spec`` for a video of released features, linear between the middles of these."""
    said = regression.predict(video.features)
    start, end = clip_times(0, clip_count(round(video.end_s[-1] * spec.fps), spec.window, spec.stride), spec)
    at, known = (start + end) / 2, (video.start_s + video.end_s) / 2
    return np.stack([np.interp(at, known, column) for column in said.T], axis=1)


def one_fold(
    number: int, split: Split, arguments: argparse.Namespace
) -> tuple[tuple[float, float], list[pd.DataFrame]]:
    """Squared error of the regression and of the mean on held-out videos; detections of these, of each seed."""
    torch.set_num_threads(1)
    released, ours = FeatureStore.open(arguments.released), FeatureStore.open(arguments.store)
    labels, folder = LabelSet.load("annchor-coarse"), f"{arguments.out}/fold{number}"
    annotated = read_annotations(arguments.annotations, labels)
    training, held = split.video_ids("training"), split.video_ids("validation")
    x, y = pairs(released, ours, training)
    regression = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(x, y)
    new_x, new_y = pairs(released, ours, held)
    errors = [float(((new_y - guess) ** 2).sum()) for guess in (regression.predict(new_x), y.mean(axis=0))]

    others = sorted(set(released.video_ids()) - set(ours.video_ids()))
    further = FeatureStore.create(f"{folder}/store", ours.spec)
    for video in released.iter_videos(others):
        further.write_unit(video.video_id, 0, 0, translated(video, ours.spec, regression))
    projection = fitted_projection(ours, training, DIM, f"{folder}/projection")

    def run(
        store: FeatureStore,
        known: Annotations,
        apart: Split,
        out: str,
        *,
        seed: int = 0,
        settings: list[str] | None = None,
        init: Localizer | None = None,
    ) -> Localizer:
        recipe = resolve_recipe("cnn", "localize", ours.spec, settings=settings, seed=seed)
        prepare(store, projection, known, labels, apart, out)
        train(
            *(store, projection, labels, recipe, out, out),
            name="cnn-localize",
            recipe_name="localize",
            alone=True,
            init=init,
        )
        return Localizer.load(f"{out}/bundle")

    known = annotated.select(others)
    settings = [f"optim.epochs={arguments.epochs}"]
    first = run(further, known, make_split(known, "video"), f"{folder}/first", settings=settings)
    mine, found = annotated.select(ours.video_ids()), []
    for seed in range(arguments.seeds):
        localizer = run(ours, mine, split, f"{folder}/seed{seed}", seed=seed, init=first)
        plain = localizer.with_temperature(1.0)  # as folds are compared
        found.append(localize_videos(plain, ours.iter_videos(held), mine.durations))
    return (errors[0], errors[1]), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", required=True, help="Store of the released features.")
    parser.add_argument("--store", required=True, help="Store of our features of some of these videos.")
    parser.add_argument("--out", required=True, help="Folder for what is made.")
    parser.add_argument("--annotations", default=ANNOTATIONS)
    parser.add_argument("--epochs", type=int, default=5, help="On the further videos.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    ours = FeatureStore.open(arguments.store)
    labels = LabelSet.load("annchor-coarse")
    known = read_annotations(arguments.annotations, labels).select(ours.video_ids())
    splits = cross_validation(map(str, known.videos["video_id"]), "video", FOLDS, 0)
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        folds = list(pool.map(partial(one_fold, arguments=arguments), range(FOLDS), splits))
    left, total = (sum(errors[k] for errors, _ in folds) for k in (0, 1))
    print(f"explained of the variance of held-out videos: {1 - left / total:.1%}")
    for seed in range(arguments.seeds):
        found = [detections[seed] for _, detections in folds]
        truths = [known.select(split.video_ids("validation")).segments for split in splits]
        parts = [_average_map(*pair, labels) for pair in zip(truths, found, strict=True)]
        at_once = _average_map(known.segments, pd.concat(found, ignore_index=True), labels)
        print(f"seed {seed}: average mAP {at_once:.3f}, folds {np.mean(parts):.3f} +- {np.std(parts, ddof=1):.3f}")


def _average_map(truth: pd.DataFrame, found: pd.DataFrame, labels: LabelSet) -> float:
    return float(evaluate_detections(truth, found, labels=labels.labels)["average_map"])


if __name__ == "__main__":
    main()
