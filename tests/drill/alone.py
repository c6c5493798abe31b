"""The drill's stages in one process, without Ray: what a cluster has to come to as well, whatever happens to it."""

from pathlib import Path

import pandas as pd

from balletal import files, projection
from balletal.annotations import make_split, read_annotations
from balletal.backbones.spec import FeatureSpec
from balletal.features.extractor import Extractor
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import Projection
from balletal.tal.localizer import Localizer
from balletal.video.probe import probe
from workflows.fit_projection import moments_of
from workflows.tables import write_detections
from workflows.train import prepare, resolve_recipe, train


def extract(videos: str, store: str, spec: FeatureSpec, weights: str) -> None:
    """Features of whole videos, each a unit."""
    features, extractor = FeatureStore.create(store, spec), Extractor(spec, weights)
    for uri in files.list_files(videos):
        features.write_unit(Path(uri).stem, 0, 0, extractor.extract_video(probe(uri)).features)


def fit_projection(store: str, out: str, dim: int) -> None:
    features = FeatureStore.open(store)
    projection.fit(moments_of(features, features.video_ids()), features.spec, dim).save(out)


def train_model(store: str, annotations: str, fitted: str, out: str, settings: list[str]) -> None:
    """With one worker."""
    features, labels = FeatureStore.open(store), LabelSet.load("annchor-coarse")
    annotated = read_annotations(annotations, labels).select(features.video_ids())
    split, of_store = make_split(annotated, "video", 0), Projection.load(fitted)
    prepare(features, of_store, annotated, labels, split, out)
    recipe = resolve_recipe("cnn", "localize", features.spec, settings=settings)
    train(
        features,
        of_store,
        labels,
        recipe,
        prepared=out,
        out=out,
        name="cnn-localize",
        recipe_name="localize",
        alone=True,
    )


def score(bundle: str, store: str, videos: str, out: str) -> None:
    """Detections of videos whose features are in ``store``."""
    localizer = Localizer.load(bundle)
    durations = {Path(uri).stem: probe(uri).duration for uri in files.list_files(videos)}
    tables = [localizer.localize(v, duration=durations[v.video_id]) for v in FeatureStore.open(store).iter_videos()]
    write_detections(out, pd.concat(tables, ignore_index=True), localizer, durations)
