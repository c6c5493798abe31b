"""Train a model on a store's projected features: sequences -> Ray Train -> bundle -> validation metrics.

The run's folder is its own manifest: `config.yaml` first, checkpoints on the way, `metrics.json` last. The same command
again continues a run that was stopped and does nothing to one that is finished.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, get_args

import numpy as np
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
    usable_segments,
    write_activitynet,
)
from balletal.errors import InputError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.metrics.calibration import detection_temperature
from balletal.metrics.localizer import evaluate_localizer
from balletal.projection import Projection
from balletal.segments import SEGMENT_COLUMNS
from balletal.tal.config import ModelName, Recipe, RecipeName, recipe
from balletal.tal.localizer import Localizer, localize_videos
from balletal.tal.sequences import LabelledSequence, on_clip_grid, write_sequences
from workflows.cluster import ray_session
from workflows.config import claim, merged, read_yaml, validated, with_settings
from workflows.console import print_json, run, say
from workflows.fitting import fit, fit_alone
from workflows.tables import write_detections


def prepare(
    store: FeatureStore, projection: Projection, annotations: Annotations, labels: LabelSet, split: Split, out: str
) -> None:
    """Write what training reads: `split.json`, `sequences/`, and `ground_truth.json` (validation) last.

    A video whose annotations know no duration lasts as long as its container says, else as its features.

    Raises:
        SpecMismatchError: store and projection were made for different features.
        InputError: training or validation has no video with features and annotations; ``out`` holds other data.
    """
    projection.spec.require(store.spec, mine="the projection", others=f"store {store.uri}")
    segments, dropped = usable_segments(annotations, labels)
    if any(dropped.values()):
        say(f"left out of training: {', '.join(f'{n} {kind}' for kind, n in dropped.items() if n)}")
    known = set(store.video_ids()) & set(annotations.videos["video_id"])
    chosen = {subset: [v for v in split.video_ids(subset) if v in known] for subset in ("training", "validation")}
    for subset, video_ids in chosen.items():
        missing = len(split.video_ids(subset)) - len(video_ids)
        if missing:
            say(f"{subset}: {missing} videos of the split have no features or no annotations, left out")
        if not video_ids:
            raise InputError(f"{subset} subset", expected="a video with features and annotations", found="none")
        if not segments["video_id"].isin(video_ids).any():
            raise InputError(f"{subset} subset", expected=f"a step of label set {labels.name}", found="none")
    durations = _durations(store, annotations, chosen["training"] + chosen["validation"])
    content = json.dumps([chosen, durations, segments[list(SEGMENT_COLUMNS)].values.tolist()], sort_keys=True)
    claim(
        files.join(out, "sequences"),
        {
            "spec": store.spec.to_dict(),
            "projection": projection.digest,
            "labels": labels.name,
            "split": {"by": split.by, "seed": split.seed},
            "videos, durations and segments": hashlib.sha256(content.encode()).hexdigest(),
        },
    )
    if files.exists(files.join(out, "ground_truth.json")):
        return
    by_video = dict(list(segments.groupby("video_id")))
    rows = dict.fromkeys(chosen, 0)
    for subset in chosen:

        def sequences(subset: str = subset) -> Iterator[LabelledSequence]:
            for video in store.iter_videos(chosen[subset]):
                if len(video.features) == 0:
                    continue
                rows[subset] += len(video.features)
                steps = by_video.get(video.video_id, segments.iloc[:0])
                yield LabelledSequence(
                    video_id=video.video_id,
                    features=on_clip_grid(video, projection),
                    segments=steps[["start", "end"]].to_numpy(),
                    classes=np.array([labels.index[name] for name in steps["label"]], dtype=np.int64),
                    duration=durations[video.video_id],
                )

        meta = {"spec": store.spec.to_dict(), "labels": labels.to_dict(), "subset": subset}
        uri = files.join(out, "sequences", f"{subset}.parquet")
        write_sequences(uri, sequences(), dim=projection.dim, meta=meta)
    if projection.rows > rows["training"]:
        say(
            f"the projection was fitted on {projection.rows} features, the training videos have {rows['training']}: it "
            "has seen others too, perhaps the validation videos; fit-projection --split keeps them apart"
        )
    save_split(files.join(out, "split.json"), split)
    validation = annotations.videos[annotations.videos["video_id"].isin(chosen["validation"])]
    validation = validation.assign(duration=[durations[v] for v in validation["video_id"]])
    mine = segments[segments["video_id"].isin(chosen["validation"])].reset_index(drop=True)
    ground_truth = Annotations(mine, validation.reset_index(drop=True))
    write_activitynet(files.join(out, "ground_truth.json"), ground_truth, labels)


def _durations(store: FeatureStore, annotations: Annotations, video_ids: list[str]) -> dict[str, float]:
    probed = store.videos().dropna(subset=["duration"])
    durations = dict(zip(probed["video_id"], probed["duration"], strict=True)) | annotations.durations
    missing = [video_id for video_id in video_ids if video_id not in durations]
    durations |= {video.video_id: float(video.end_s[-1]) for video in store.iter_videos(missing)}
    return {video_id: float(durations[video_id]) for video_id in video_ids}


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
    data: str = "",
    features: str = "",
) -> dict[str, Any]:
    """Train one model, write its bundle and measure it on the validation videos.

    The temperature of its scores is fitted on these too: how well they are calibrated elsewhere is for other videos to
    say. It changes no mAP but by ties.

    Args:
        prepared: folder that :func:`prepare` wrote.
        out: the run's folder; a finished run of the same configuration is returned as it is.
        workers, cpus: Ray Train workers and the CPUs of each.
        alone: train in this process instead (:func:`fit_alone`), on its GPU if it has one.
        data: a line on what it learnt from, with its licence, for the bundle's card.
        features: name of the features, where a comparison has several kinds.

    Returns:
        what `metrics.json` holds.

    Raises:
        InputError: ``out`` holds a run of another configuration.
    """
    split = load_split(files.join(prepared, "split.json"))
    config = {
        "name": name,
        "data": data,
        "sequences": read_yaml(files.join(prepared, "sequences", "config.yaml")),
        "recipe": settings.model_dump(mode="json"),
    }
    claim(out, config)
    metrics_uri = files.join(out, "metrics.json")
    if files.exists(metrics_uri):
        metrics: dict[str, Any] = files.read_json(metrics_uri)
        return metrics
    sequences = files.join(prepared, "sequences")
    if alone:
        model = fit_alone(sequences, settings, out, "cuda" if torch.cuda.is_available() else "cpu")
    else:
        model = fit(sequences, settings, out, workers=workers, cpus=cpus)
    with io.StringIO(files.read_bytes(files.join(out, "losses.csv")).decode()) as text:
        history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(text)]
    ground_truth = read_annotations(files.join(prepared, "ground_truth.json"), labels)
    localizer = Localizer(name, labels, projection, settings, model)
    durations = ground_truth.durations
    if model.located:  # the paper's scores stay as published
        plain = localize_videos(localizer.with_temperature(1.0), store.iter_videos(list(durations)), durations)
        localizer = localizer.with_temperature(detection_temperature(ground_truth.segments, plain))
    detections, measured = evaluate_localizer(localizer, store.iter_videos(list(durations)), ground_truth)
    metrics = {
        "name": name,
        "features": features,
        "model": settings.model.name,
        "recipe": recipe_name,
        "seed": settings.seed,
        "subset": "validation",
        "split": {"by": split.by, "seed": split.seed},
        "videos": len(durations),
        **measured,
        "losses": {
            side: {part: history[-1][f"{side}_{part}"] for part in ("total", "class", "boundary")}
            for side in ("train", "val")
        },
        "temperature": localizer.recipe.decode.temperature,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": round(sum(row["seconds"] for row in history), 1),
        "data": data,
    }
    about = {
        "data": data,
        "split": metrics["split"],
        "validation": {
            "average_map": measured["detection"]["average_map"],
            "foreground_accuracy": measured["frames"]["foreground_accuracy"],
        },
    }
    localizer = replace(localizer, about=about)
    localizer.save(files.join(out, "bundle"))
    write_detections(out, detections, localizer)
    if out != prepared:
        write_activitynet(files.join(out, "ground_truth.json"), ground_truth, labels)
        save_split(files.join(out, "split.json"), split)
    files.write_json(metrics_uri, metrics)
    return metrics


def resolve_recipe(
    model: ModelName, name: RecipeName, *, config: str | None = None, settings: list[str] | None = None, seed: int = 0
) -> Recipe:
    """The shipped recipe with a YAML file's values and `--set` on top."""
    values = recipe(model, name).model_dump(mode="json") | {"seed": seed}
    if config is not None:
        values = merged(values, read_yaml(config))
    return validated(Recipe, with_settings(values, settings or []), where=config or "the recipe")


def main(
    store: Annotated[str, typer.Option(help="Feature store, a path or an fsspec URI.")],
    projection: Annotated[str, typer.Option(help="Folder that fit-projection wrote.")],
    annotations: Annotated[str, typer.Option(help="Annotation file or folder, any format that balletal reads.")],
    out: Annotated[str, typer.Option(help="Folder of this run.")],
    labels: Annotated[str, typer.Option(help="Label set: a name or a JSON file.")] = "annchor-coarse",
    model: Annotated[ModelName, typer.Option(help="Which model.")] = "lstm",
    recipe: Annotated[RecipeName, typer.Option(help="`paper`: the published baseline.")] = "localize",
    split: Annotated[str, typer.Option(help="video | variation | published, or a split file.")] = "video",
    seed: Annotated[int, typer.Option(help="Of the weights, the order of videos and a drawn split.")] = 0,
    config: Annotated[str | None, typer.Option(help="YAML with values of the recipe.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.key=value over the recipe.")] = None,
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
    resolved = resolve_recipe(model, recipe, config=config, settings=settings, seed=seed)
    label_set = LabelSet.load(labels)
    fitted = Projection.load(projection)
    features = FeatureStore.open_for(store, fitted.spec, owner=f"projection {projection}")
    annotated = read_annotations(annotations, label_set).select(features.video_ids())
    drawn = split in get_args(By)
    chosen = make_split(annotated, split, seed) if drawn else load_split(split)  # type: ignore[arg-type]
    prepare(features, fitted, annotated, label_set, chosen, out)
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
