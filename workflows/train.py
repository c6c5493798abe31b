"""Train a model on a store's projected features: sequences -> Ray Train -> bundle -> validation metrics.

The run's folder is its own manifest: `config.yaml` first, checkpoints on the way, `metrics.json` last. The same command
again continues a run that was stopped and does nothing to one that is finished.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args

import torch
import typer

from balletal import files
from balletal.annotations import (
    Annotations,
    By,
    Split,
    load_split,
    make_split,
    read_annotations,
    save_split,
    write_activitynet,
)
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import Projection
from balletal.segments import SEGMENT_COLUMNS
from balletal.tal.config import ModelName, Recipe, RecipeName, recipe
from balletal.tal.localizer import Localizer
from balletal.tal.sequences import Grid, LabelledSequence, write_sequences
from balletal.tal.windows import Windows
from workflows.cluster import ray_session
from workflows.config import claim, merged, read_yaml, validated, with_settings
from workflows.console import print_json, run, say
from workflows.corpora import Corpus, durations_of, further_corpora, learnable, require_twins, rows_of
from workflows.fitting import fit, fit_alone, weights_that_fit
from workflows.measured import write_run


def prepare(
    store: FeatureStore,
    projection: Projection,
    annotations: Annotations,
    labels: LabelSet,
    split: Split,
    out: str,
    *,
    mirrored: bool = False,
    further: Sequence[Corpus] = (),
) -> None:
    """Write what training reads: `split.json`, `sequences/`, and `ground_truth.json` (validation) last.

    A video whose annotations know no duration lasts as long as its container says, else as its features.

    Args:
        mirrored: train on each training video, the further ones too, a second time as a mirror shows it, where there
            are features of its twin; its id then ends in `~mirrored`.
        further: corpora to train on as a whole; nothing of them is validated on.

    Raises:
        SpecMismatchError: a store and the projection were made for different features.
        InputError: training or validation has no video with features and annotations; no training video has mirrored
            features; a further corpus holds a video that is held out; ``out`` holds other data.
    """
    for one in (store, *(corpus.store for corpus in further)):
        projection.spec.require(one.spec, mine="the projection", others=f"store {one.uri}")
    segments = learnable(annotations, labels)
    known = set(store.video_ids()) & set(annotations.videos["video_id"])
    chosen = {subset: [v for v in split.video_ids(subset) if v in known] for subset in ("training", "validation")}
    for subset, video_ids in chosen.items():
        missing = len(split.video_ids(subset)) - len(video_ids)
        if missing:
            say(f"{subset}: {missing} videos of the split have no features or no annotations, left out")
        if not any(len(video.features) for video in store.iter_videos(video_ids)):
            found = f"{len(video_ids)} videos that hold no feature" if video_ids else "none"
            raise InputError(f"{subset} subset", expected="a video with features and annotations", found=found)
        if not segments["video_id"].isin(video_ids).any():
            raise InputError(f"{subset} subset", expected=f"a step of label set {labels.name}", found="none")
    durations = durations_of(store, annotations, chosen["training"] + chosen["validation"])
    parts = {s: [Corpus(store, segments, {v: durations[v] for v in video_ids})] for s, video_ids in chosen.items()}
    more = _extend(parts["training"], labels, split, mirrored, further)
    content = json.dumps([chosen, durations, rows_of(segments)], sort_keys=True)
    claim(
        files.join(out, "sequences"),
        {
            "spec": store.spec.to_dict(),
            "projection": projection.digest,
            "labels": labels.name,
            "split": {"by": split.by, "seed": split.seed},
            "videos, durations and segments": hashlib.sha256(content.encode()).hexdigest(),
            **more,
        },
    )
    if files.exists(files.join(out, "ground_truth.json")):
        return
    rows, late = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0)
    cells = Grid.of(store.spec, upsample=1)
    for subset, corpora in parts.items():

        def sequences(subset: str = subset, corpora: list[Corpus] = corpora) -> Iterator[LabelledSequence]:
            for corpus in corpora:
                for sequence in corpus.sequences(projection, labels):
                    if not corpus.mirrored:  # no projection is fitted on twins, and they are as long
                        last = cells.offset + len(sequence.features) * cells.step
                        late[subset] += int((sequence.segments[:, 0] >= last).sum())
                        rows[subset] += int(sequence.features.any(axis=1).sum())
                    yield sequence

        meta = {"spec": store.spec.to_dict(), "labels": labels.to_dict(), "subset": subset}
        uri = files.join(out, "sequences", f"{subset}.parquet")
        write_sequences(uri, sequences(), dim=projection.dim, meta=meta, num_tags=len(labels.tags))
        if late[subset]:
            say(f"{subset}: {late[subset]} steps begin after the last feature of their video, where none can be found")
    if projection.rows > rows["training"]:
        say(
            f"the projection was fitted on {projection.rows} features, the training videos have {rows['training']}: it "
            "has seen others too, perhaps the validation videos; fit-projection --split keeps them apart"
        )
    save_split(files.join(out, "split.json"), split)
    validation = annotations.videos[annotations.videos["video_id"].isin(chosen["validation"])]
    validation = validation.assign(duration=[durations[v] for v in validation["video_id"]])
    mine = segments[segments["video_id"].isin(chosen["validation"])].reset_index(drop=True)
    tags = annotations.select(chosen["validation"]).tags
    tags = tags[tags["label"].isin(labels.tags)].reset_index(drop=True)
    ground_truth = Annotations(mine[list(SEGMENT_COLUMNS)], validation.reset_index(drop=True), tags)
    write_activitynet(files.join(out, "ground_truth.json"), ground_truth, labels)


def _extend(
    training: list[Corpus], labels: LabelSet, split: Split, mirrored: bool, further: Sequence[Corpus]
) -> dict[str, list[str]]:
    """Add further corpora and twins to ``training``; what the run's configuration says of them, if there are any."""
    (own,) = training
    for corpus in further:
        corpus.require_apart(split)
    training += further
    more = {"further corpora": [corpus.digest for corpus in further]} if further else {}
    if mirrored:
        require_twins(own.store, own.durations)
        twins = [corpus.twin(labels) for corpus in training]
        for corpus, twin in zip(training, twins, strict=True):
            if missing := len(corpus.durations) - len(twin.durations):
                say(f"{missing} training videos in {corpus.store.uri} have no mirrored features, left as they are")
        training += twins
        more["mirrored videos"] = [twin.digest for twin in twins]
    return more


def train(
    store: FeatureStore,
    projection: Projection,
    labels: LabelSet,
    settings: Recipe,
    prepared: str,
    out: str,
    *,
    name: str,
    recipe_name: str,
    workers: int = 1,
    cpus: int = 1,
    alone: bool = False,
    init: Localizer | None = None,
    data: str = "",
    features: str = "",
) -> dict[str, Any]:
    """Train one model, write its bundle and measure it on the validation videos.

    Args:
        prepared: folder that :func:`prepare` wrote.
        out: the run's folder; a finished run of the same configuration is returned as it is.
        workers, cpus: Ray Train workers and the CPUs of each.
        alone: train in this process instead (:func:`fit_alone`), on its GPU if it has one.
        init: begin with the weights of this one, as many as fit, and not with random ones.
        data: a line on what it learnt from, with its licence, for the bundle's card.
        features: name of the features, where a comparison has several kinds.

    Returns:
        what `metrics.json` holds.

    Raises:
        InputError: ``out`` holds a run of another configuration; ``init`` has another projection, or no weight fits.
    """
    weights, new = (None, []) if init is None else weights_that_fit(init, settings, projection, labels)
    config = {
        "name": name,
        "data": data,
        "sequences": read_yaml(files.join(prepared, "sequences", "config.yaml")),
        "recipe": settings.model_dump(mode="json"),
        **({} if init is None else {"init": init.digest}),
    }
    claim(out, config)
    metrics_uri = files.join(out, "metrics.json")
    if files.exists(metrics_uri):
        metrics: dict[str, Any] = files.read_json(metrics_uri)
        return metrics
    if init is not None:
        say(f"begins with bundle {init.name}, digest {init.digest[:12]}; new: {', '.join(new) or 'nothing'}")
    sequences = files.join(prepared, "sequences")
    if alone:
        model = fit_alone(sequences, settings, out, "cuda" if torch.cuda.is_available() else "cpu", weights)
    else:
        model = fit(sequences, settings, out, workers=workers, cpus=cpus, weights=weights)
    with io.StringIO(files.read_bytes(files.join(out, "losses.csv")).decode()) as text:
        history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(text)]
    facts = {
        "features": features,
        "model": settings.model.name,
        "recipe": recipe_name,
        "seed": settings.seed,
        "losses": {
            side: {part: history[-1][f"{side}_{part}"] for part in ("total", "class", "boundary")}
            for side in ("train", "val")
        },
        "train_seconds": round(sum(row["seconds"] for row in history), 1),
    }
    about = {} if init is None else {"init": init.digest}
    localizer = Localizer(name, labels, projection, settings, model, about)
    return write_run(localizer, store, prepared, out, facts=facts, data=data)


def resolve_recipe(
    model: ModelName,
    name: RecipeName,
    spec: FeatureSpec,
    *,
    config: str | None = None,
    settings: list[str] | None = None,
    seed: int = 0,
) -> Recipe:
    """The shipped recipe for such features, with a YAML file's values and `--set` on top.

    Raises:
        InputError: values that no recipe has, or of which no window can be made.
    """
    values = recipe(model, name, spec.stride_s).model_dump(mode="json") | {"seed": seed}
    if config is not None:
        values = merged(values, read_yaml(config))
    resolved = validated(Recipe, with_settings(values, settings or []), where=config or "the recipe")
    Windows.of(resolved)  # raises where a window is all context
    return resolved


def main(
    store: Annotated[str, typer.Option(help="Feature store, a path or an fsspec URI.")],
    annotations: Annotated[str, typer.Option(help="Annotation file or folder, any format that balletal reads.")],
    out: Annotated[str, typer.Option(help="Folder of this run.")],
    projection: Annotated[
        str | None, typer.Option(help="Folder that fit-projection wrote; with --init, that bundle's need not be named.")
    ] = None,
    labels: Annotated[str, typer.Option(help="Label set: a name or a JSON file.")] = "annchor-coarse",
    model: Annotated[ModelName, typer.Option(help="Which model.")] = "lstm",
    recipe: Annotated[RecipeName, typer.Option(help="`paper`: the published baseline.")] = "localize",
    split: Annotated[str, typer.Option(help="video | variation | published, or a split file.")] = "video",
    seed: Annotated[int, typer.Option(help="Of the weights, the order of videos and a drawn split.")] = 0,
    config: Annotated[str | None, typer.Option(help="YAML with values of the recipe.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.key=value over the recipe.")] = None,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="Train on each video a second time, as extract --mirror saw it.")
    ] = False,
    extra_store: Annotated[
        list[str] | None, typer.Option(help="Store of further videos to train on alone; may be given several times.")
    ] = None,
    extra_annotations: Annotated[
        list[str] | None, typer.Option(help="Annotations of these, one for each --extra-store.")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Bundle whose weights to begin with, and its projection.")] = None,
    workers: Annotated[int, typer.Option(help="Ray Train workers.", min=1)] = 1,
    data: Annotated[str, typer.Option(help="What it learns from, with its licence, for the card.")] = "",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train one model and measure it on validation videos.

    The run's folder holds config.yaml, losses.csv, tensorboard/, checkpoints/, bundle/, detections and metrics.json.
    The same command again resumes a run that was stopped.
    """
    out = files.absolute(out)  # Ray Train takes no relative folder
    label_set = LabelSet.load(labels)
    begin = None if init is None else Localizer.load(init)
    if projection is not None:
        fitted = Projection.load(projection)
    elif begin is not None:
        fitted = begin.projection
    else:
        raise typer.BadParameter("name a folder that fit-projection wrote, or --init", param_hint="--projection")
    resolved = resolve_recipe(model, recipe, fitted.spec, config=config, settings=settings, seed=seed)
    if begin is not None:
        weights_that_fit(begin, resolved, fitted, label_set)  # or it is told before anything is written
    owner = f"projection {projection or init}"
    features = FeatureStore.open_for(store, fitted.spec, owner=owner)
    more, their = extra_store or [], extra_annotations or []
    if len(more) != len(their):
        raise typer.BadParameter("name one for each --extra-store", param_hint="--extra-annotations")
    further = further_corpora(features, zip(more, their, strict=True), label_set, owner=owner)
    annotated = read_annotations(annotations, label_set).select(features.video_ids())
    drawn = split in get_args(By)
    chosen = make_split(annotated, split, seed) if drawn else load_split(split)  # type: ignore[arg-type]
    prepare(features, fitted, annotated, label_set, chosen, out, mirrored=mirrored, further=further)
    with ray_session(address):
        metrics = train(
            features,
            fitted,
            label_set,
            resolved,
            prepared=out,
            out=out,
            name=f"{model}-{recipe}",
            recipe_name=recipe,
            workers=workers,
            init=begin,
            data=data,
        )
    if as_json:
        print_json(metrics)
    else:
        detection, frames = metrics["detection"], metrics["frames"]
        known = frames["foreground_accuracy"]
        accuracy = "unknown" if known is None else f"{known:.3f}"
        say(f"average mAP {detection['average_map']:.3f}, foreground accuracy {accuracy}")
        say(f"bundle: {files.join(out, 'bundle')}")


if __name__ == "__main__":
    run(main)
