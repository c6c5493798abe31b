"""What the runs of a comparison stand on: cells, each one kind of features on one split.

`<out>/` itself is the cell of a single store and split; otherwise `<out>/features/<name>/` and below it `fold<k>/`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from balletal import files, projection
from balletal.annotations import Annotations, Split, cross_validation, load_split, make_split, read_annotations
from balletal.errors import InputError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import FILE as PROJECTION_FILE
from balletal.projection import Projection
from balletal.tal.localizer import Localizer
from workflows.comparison_config import CompareConfig, ComparisonConfig, FeatureSetting, Overrides, SplitConfig
from workflows.config import claim
from workflows.console import say
from workflows.corpora import Corpus, require_twins, twin_of
from workflows.fit_projection import moments_of


@dataclass(frozen=True)
class Cell:
    """One kind of features on one split.

    Attributes:
        features: name of the setting; empty where there is one store alone.
        fold: number of the fold; None where there is one split.
        folder: where its sequences go, and its runs where there are folds.
        overrides: values of recipes for these features.
        mirrored, further: what is trained on beside the split's videos, see :func:`workflows.train.prepare`.
        init: by model, whose weights it begins with.
    """

    features: str
    fold: int | None
    store: FeatureStore
    projection: Projection
    split: Split
    folder: str
    overrides: Overrides = field(default_factory=dict)
    mirrored: bool = False
    further: tuple[Corpus, ...] = ()
    init: Mapping[str, Localizer] = field(default_factory=dict)


def make_cells(config: CompareConfig) -> list[Cell]:
    """The cells of a comparison, on the videos that every setting has features of, so that all are measured alike.

    Raises:
        InputError: no such store or spec, no video that all have, a split that cannot be drawn; no mirrored features;
            a further corpus with videos that are held out; bundles to begin with that differ in their projection.
        SpecMismatchError: the given projection, or a bundle, was fitted on other features; a further corpus has others.
    """
    out = files.absolute(config.out)
    if config.projection is not None:
        fitted = Projection.load(config.projection)
        store = FeatureStore.open_for(config.store or "", fitted.spec, owner=f"projection {config.projection}")
        return [Cell("", None, store, fitted, draw_split(config, store), out)]
    # One store without a name is a setting of which nothing is set.
    settings = config.features or [FeatureSetting.model_construct(name="", store=config.store or "")]
    stores = {setting.name: _open(setting, files.join(out, "features", setting.name)) for setting in settings}
    common = _common(stores)
    labels = LabelSet.load(config.labels)
    annotated = read_annotations(config.annotations, labels).select(common)
    cells = []
    for setting in settings:
        name, store = setting.name, stores[setting.name]
        further = _further(setting, store, labels, files.join(out, "features", name))
        init, shared = _init(setting, store)
        for fold, split in enumerate(draw_splits(config.split, annotated)):
            parts = (*(("features", name) if name else ()), *((f"fold{fold}",) if config.split.folds else ()))
            folder = files.join(out, *parts)
            for corpus in further:  # before a projection sees them
                corpus.require_apart(split)
            training = split.video_ids("training")
            fitted = shared or fitted_projection(store, training, config.dim, files.join(folder, "projection"), further)
            cells.append(
                Cell(
                    features=name,
                    fold=fold if config.split.folds else None,
                    store=store,
                    projection=fitted,
                    split=split,
                    folder=folder,
                    overrides=setting.overrides,
                    mirrored=setting.mirrored,
                    further=further,
                    init=init,
                )
            )
    return cells


def draw_split(config: ComparisonConfig, store: FeatureStore) -> Split:
    """The configured split of the videos that have both features and annotations."""
    annotated = read_annotations(config.annotations, LabelSet.load(config.labels)).select(store.video_ids())
    (split,) = draw_splits(config.split, annotated)
    return split


def draw_splits(config: SplitConfig, annotated: Annotations) -> list[Split]:
    """The configured split, or one a fold."""
    if config.file is not None:
        return [load_split(config.file)]
    if config.folds:
        return cross_validation(map(str, annotated.videos["video_id"]), config.by, config.folds, config.seed)
    return [make_split(annotated, config.by, config.seed, config.fractions)]


def fitted_projection(
    store: FeatureStore, training: Iterable[str], dim: int, folder: str, further: Sequence[Corpus] = ()
) -> Projection:
    """The projection in ``folder``, fitted on training videos and further corpora when it is not there yet."""
    known = set(store.video_ids())
    chosen = sorted(video_id for video_id in training if video_id in known)
    videos = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()
    more = {"further corpora": [corpus.digest for corpus in further]} if further else {}
    claim(folder, {"spec": store.spec.spec_id, "dim": dim, "training videos": videos} | more)
    if not files.exists(files.join(folder, PROJECTION_FILE)):
        moments = moments_of(store, chosen)
        for corpus in further:
            moments.merge(moments_of(corpus.store, list(corpus.durations)))
        projection.fit(moments, store.spec, dim).save(folder)
    return Projection.load(folder)


def _common(stores: dict[str, FeatureStore]) -> list[str]:
    videos = {name: set(store.video_ids()) for name, store in stores.items()}
    common = set.intersection(*videos.values())
    for name, there in videos.items():
        if there - common:
            say(f"{name}: {len(there - common)} of {len(there)} videos are not in every store, left out")
    if not common:
        raise InputError("features", expected="a video that every store has", found="none")
    return sorted(common)


def _open(setting: FeatureSetting, folder: str) -> FeatureStore:
    store = FeatureStore.open(setting.store, setting.spec)
    if setting.mirrored:
        require_twins(store, store.video_ids())  # said of the store that they would be extracted into
    return _every(store, setting, files.join(folder, "store"))


def _further(setting: FeatureSetting, store: FeatureStore, labels: LabelSet, folder: str) -> tuple[Corpus, ...]:
    whole = store.spec.replace(stride=store.spec.stride // setting.every)
    corpora = []
    for n, extra in enumerate(setting.extra):
        opened = FeatureStore.open_for(extra.store, whole, owner=f"features {setting.name}")
        thin = _every(opened, setting, files.join(folder, f"extra{n}"))
        corpora.append(Corpus.read(thin, extra.annotations, labels))
    return tuple(corpora)


def _init(setting: FeatureSetting, store: FeatureStore) -> tuple[dict[str, Localizer], Projection | None]:
    """The localizers to begin with, and the projection that all of them have."""
    init = {str(model): Localizer.load(bundle) for model, bundle in setting.init.items()}
    projections = {one.projection.digest: one.projection for one in init.values()}
    if len(projections) > 1:
        found = ", ".join(f"{model} {one.projection.digest[:12]}" for model, one in init.items())
        raise InputError(f"features {setting.name}, init", expected="bundles of one projection", found=found)
    for model, one in init.items():
        one.spec.require(store.spec, mine=f"bundle {setting.init[model]}", others=f"store {store.uri}")  # type: ignore[index]
    return init, next(iter(projections.values()), None)


def _every(store: FeatureStore, setting: FeatureSetting, uri: str) -> FeatureStore:
    if setting.every == 1:
        return store
    if setting.mirrored and twin_of(store).video_ids():
        _thinned(twin_of(store), setting.every, uri)
    return _thinned(store, setting.every, uri)


def _thinned(store: FeatureStore, every: int, uri: str) -> FeatureStore:
    """A store of every so many-th feature, made once."""
    thin = FeatureStore.create(uri, store.spec.replace(stride=store.spec.stride * every))
    whole = {video_id for video_id, unit in thin.units() if unit == 0}
    missing = [video_id for video_id in store.video_ids() if video_id not in whole]
    for video in store.iter_videos(missing):
        clips = np.rint(video.start_s / store.spec.stride_s).astype(np.int64)
        kept = clips % every == 0
        clips, features = clips[kept] // every, video.features[kept]
        gaps = np.flatnonzero(np.diff(clips) > 1) + 1  # a unit's clips follow one another
        units = list(zip(np.split(clips, gaps), np.split(features, gaps), strict=True))
        for n in reversed(range(len(units))):  # the first comes last: where it is, the video is whole
            if len(units[n][0]):
                thin.write_unit(video.video_id, n, int(units[n][0][0]), units[n][1])
    if not len(thin.videos()):
        thin.write_videos(store.videos().astype(object).where(lambda t: t.notna(), None).to_dict("records"))
    return thin
