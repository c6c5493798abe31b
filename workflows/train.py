"""Train a model on a store's projected features: sequences -> Ray Train -> bundle -> validation metrics.

The run's folder is its own manifest: `config.yaml` first, checkpoints on the way, `metrics.json` last. The same command
again continues a run that was stopped and does nothing to one that is finished.
"""

import csv
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import ray.train
import torch
import torch.distributed as dist
import typer
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch.utils.tensorboard import SummaryWriter

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
from balletal.backbones.spec import FeatureSpec
from balletal.errors import BalletalError, InputError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.metrics.localizer import evaluate_localizer
from balletal.projection import Projection
from balletal.segments import SEGMENT_COLUMNS
from balletal.tal.config import ModelName, Recipe, RecipeName, recipe
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from balletal.tal.sequences import LabelledSequence, SequenceFile, on_clip_grid, write_sequences
from balletal.tal.training import Training, steps_per_epoch
from workflows.cluster import ray_session
from workflows.config import claim, merged, read_yaml, validated, with_settings
from workflows.console import print_json, run, say
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


def fit(sequences: str, settings: Recipe, out: str, *, workers: int = 1, cpus: int = 1) -> TemporalModel:
    """Train on Ray and return the averaged model; goes on from the checkpoints in ``out``, if any.

    Args:
        sequences: folder that :func:`prepare` wrote.
        out: `checkpoints/`, `losses.csv` and `tensorboard/` go below it.
        cpus: of each worker.

    Raises:
        BalletalError: the training diverged.
    """
    training_data = SequenceFile(files.join(sequences, "training.parquet"))
    gpu = bool(ray.cluster_resources().get("GPU"))
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"recipe": settings.model_dump(mode="json"), "sequences": sequences, "out": out},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=out,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=3),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    result = trainer.fit()
    if isinstance(result.return_value, BalletalError):
        raise result.return_value
    if result.checkpoint is None:
        raise BalletalError(f"training in {out} ended without a checkpoint")
    model = TemporalModel(
        settings.model, training_data[0].features.shape[1], len(training_data.meta["labels"]["labels"])
    )
    averaged = _load_checkpoint(result.checkpoint)["averaged"]
    model.load_state_dict({k.removeprefix("module."): v for k, v in averaged.items() if k != "n_averaged"})
    return model.eval()


def _train_loop(config: dict[str, Any]) -> BalletalError | None:
    """One Ray Train worker. What a user can act on is returned: a raised error would be tried again, in vain."""
    data: list[SequenceFile] = []
    failure: BalletalError | None = None
    try:
        data = [SequenceFile(files.join(config["sequences"], f"{s}.parquet")) for s in ("training", "validation")]
    except BalletalError as error:
        failure = error
    # Told to every rank: one that returned alone would leave the others waiting for it.
    failures = [failure]
    if dist.is_initialized():
        failures = [None] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
    if any(failures):
        return next(error for error in failures if error)
    try:
        _run_epochs(config, *data)
    except BalletalError as error:
        return error
    return None


def _run_epochs(config: dict[str, Any], training_data: SequenceFile, validation_data: SequenceFile) -> None:
    """Epochs, and on rank 0 curves and checkpoints."""
    settings = Recipe.model_validate(config["recipe"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    training = Training(
        settings,
        FeatureSpec.from_dict(training_data.meta["spec"]),
        in_dim=training_data[0].features.shape[1],
        num_classes=len(training_data.meta["labels"]["labels"]),
        steps_per_epoch=steps_per_epoch(len(training_data), settings.optim),
        device=get_device(),
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        training.load_state(_load_checkpoint(checkpoint))
    first = ray.train.get_context().get_world_rank() == 0
    curves = SummaryWriter(files.join(config["out"], "tensorboard"), purge_step=training.epoch + 1) if first else None
    while training.epoch < settings.optim.epochs:
        started = time.monotonic()
        lr = training.optimizer.param_groups[0]["lr"]
        trained = training.train_epoch(training_data)
        validated = training.validate(validation_data)
        row = {"epoch": training.epoch, "lr": lr, "seconds": round(time.monotonic() - started, 3)}
        row |= {f"train_{name}": value for name, value in trained.items()}
        row |= {f"val_{name}": value for name, value in validated.items()}
        training.history.append(row)
        if curves is not None:
            for name, value in row.items():
                curves.add_scalar(name.replace("_", "/", 1), value, training.epoch)
            curves.flush()
            files.write_bytes(files.join(config["out"], "losses.csv"), _csv(training.history))
        if training.epoch % settings.optim.checkpoint_epochs == 0 or training.epoch == settings.optim.epochs:
            with tempfile.TemporaryDirectory() as folder:
                if first:
                    torch.save(training.state(), Path(folder) / "state.pt")
                ray.train.report(row, checkpoint=ray.train.Checkpoint(folder) if first else None)
    if curves is not None:
        curves.close()


def _load_checkpoint(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / "state.pt", map_location="cpu", weights_only=True)
    return state


def _csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


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
    data: str = "",
) -> dict[str, Any]:
    """Train one model, write its bundle and measure it on the validation videos.

    Args:
        prepared: folder that :func:`prepare` wrote.
        out: the run's folder; a finished run of the same configuration is returned as it is.
        workers, cpus: Ray Train workers and the CPUs of each.
        data: a line on what it learnt from, with its licence, for the bundle's card.

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
    model = fit(files.join(prepared, "sequences"), settings, out, workers=workers, cpus=cpus)
    with io.StringIO(files.read_bytes(files.join(out, "losses.csv")).decode()) as text:
        history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(text)]
    ground_truth = read_annotations(files.join(prepared, "ground_truth.json"), labels)
    localizer = Localizer(name, labels, projection, settings, model)
    videos = store.iter_videos(list(ground_truth.durations))
    detections, measured = evaluate_localizer(localizer, videos, ground_truth)
    metrics = {
        "name": name,
        "model": settings.model.name,
        "recipe": recipe_name,
        "seed": settings.seed,
        "subset": "validation",
        "split": {"by": split.by, "seed": split.seed},
        "videos": len(ground_truth.durations),
        **measured,
        "losses": {
            side: {part: history[-1][f"{side}_{part}"] for part in ("total", "class", "boundary")}
            for side in ("train", "val")
        },
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
    Localizer(name, labels, projection, settings, model, about).save(files.join(out, "bundle"))
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
        say(f"average mAP {detection['average_map']:.3f}, foreground accuracy {frames['foreground_accuracy']:.3f}")
        say(f"bundle: {files.join(out, 'bundle')}")


if __name__ == "__main__":
    run(main)
