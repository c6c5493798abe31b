"""Finding a model's weights: on Ray Train workers, or in one process. Both go on where they were stopped."""

import csv
import io
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray.train
import torch
import torch.distributed as dist
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import BalletalError, InputError
from balletal.labels import LabelSet
from balletal.projection import Projection
from balletal.tal.config import Recipe
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from balletal.tal.sequences import SequenceFile
from balletal.tal.training import Training, steps_per_epoch
from workflows.trainer import fit_again

_SUBSETS = ("training", "validation")


Weights = dict[str, Tensor]


def weights_that_fit(
    init: Localizer, settings: Recipe, projection: Projection, labels: LabelSet
) -> tuple[Weights, list[str]]:
    """The weights of another bundle that a new model can begin with, by name and shape, and its others' names.

    Raises:
        InputError: the bundle has another projection, so that its weights are of other features; nothing of its
            encoder fits.
    """
    if init.projection.digest != projection.digest:
        raise InputError(
            f"projection {projection.digest[:12]}",
            expected=f"that of bundle {init.name} to begin with, {init.projection.digest[:12]}",
            found=f"{projection.dim} components of {projection.rows} other features",
        )
    with torch.device("meta"):
        model = TemporalModel(settings.model, projection.dim, len(labels), len(labels.tags))
    new, theirs = model.state_dict(), init.model.state_dict()
    fitting = {name: w.cpu() for name, w in theirs.items() if name in new and w.shape == new[name].shape}
    # Heads fit nearly always, and are worth nothing on an encoder that is not theirs.
    if not any(name.startswith("encoder.") and w.ndim > 1 for name, w in fitting.items()):
        raise InputError(
            f"bundle {init.name} to begin with",
            expected=f"the encoder of a {settings.model.name}, hidden {settings.model.hidden}",
            found=f"that of a {init.recipe.model.name}, hidden {init.recipe.model.hidden}",
        )
    return fitting, [name for name, _ in model.named_parameters() if name not in fitting]


def fit(
    sequences: str, settings: Recipe, out: str, *, workers: int = 1, cpus: int = 1, weights: Weights | None = None
) -> TemporalModel:
    """Train on Ray and return the averaged model; goes on from the checkpoints in ``out``, if any.

    Args:
        sequences: folder that :func:`workflows.train.prepare` wrote.
        out: `checkpoints/`, `losses.csv` and `tensorboard/` go below it.
        cpus: of each worker.
        weights: to begin with, where there is no checkpoint; those that are not among them begin at random.

    Raises:
        BalletalError: the training diverged.
    """
    training_data = SequenceFile(files.join(sequences, "training.parquet"))
    gpu = bool(ray.cluster_resources().get("GPU"))
    trainer = partial(
        TorchTrainer,
        _train_loop,
        train_loop_config={
            "recipe": settings.model_dump(mode="json"),
            "sequences": sequences,
            "out": out,
            "weights": weights,
        },
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=out,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=3),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    result = fit_again(trainer)
    if isinstance(result.return_value, BalletalError):
        raise result.return_value
    if result.checkpoint is None:
        raise BalletalError(f"training in {out} ended without a checkpoint")
    model = TemporalModel(settings.model, **_sizes(training_data))
    averaged = _load_checkpoint(result.checkpoint)["averaged"]
    model.load_state_dict({k.removeprefix("module."): v for k, v in averaged.items() if k != "n_averaged"})
    return model.eval()


def _train_loop(config: dict[str, Any]) -> BalletalError | None:
    """One Ray Train worker. What a user can act on is returned: a raised error would be tried again, in vain."""
    data: list[SequenceFile] = []
    failure: BalletalError | None = None
    try:
        data = [SequenceFile(files.join(config["sequences"], f"{s}.parquet")) for s in _SUBSETS]
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
    """What one Ray Train worker trains."""
    settings = Recipe.model_validate(config["recipe"])
    training = new_training(settings, training_data, get_device(), config["weights"])
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        training.load_state(_load_checkpoint(checkpoint))
    first = ray.train.get_context().get_world_rank() == 0

    def save(row: dict[str, float]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if first:
                torch.save(training.state(), Path(folder) / "state.pt")
            ray.train.report(row, checkpoint=ray.train.Checkpoint(folder) if first else None)

    _epochs(training, training_data, validation_data, config["out"] if first else None, save)


def fit_alone(
    sequences: str, settings: Recipe, out: str, device: str = "cpu", weights: Weights | None = None
) -> TemporalModel:
    """As :func:`fit` with one worker, in this very process: the start of Ray Train outlasts a small training."""
    training_data, validation_data = (SequenceFile(files.join(sequences, f"{s}.parquet")) for s in _SUBSETS)
    training = new_training(settings, training_data, device, weights)
    state = files.join(out, "checkpoints", "state.pt")
    if files.exists(state):
        training.load_state(load_state(state))
    _epochs(training, training_data, validation_data, out, lambda row: save_state(state, training))
    return cast(TemporalModel, training.averaged.module.cpu().eval())


def new_training(
    settings: Recipe, data: SequenceFile, device: torch.device | str, weights: Weights | None = None
) -> Training:
    """The state of a training that has not begun."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return Training(
        settings,
        FeatureSpec.from_dict(data.meta["spec"]),
        **_sizes(data),
        steps_per_epoch=steps_per_epoch(len(data), settings.optim),
        device=device,
        weights=weights,
    )


def _sizes(data: SequenceFile) -> dict[str, int]:
    """What the data say of a model: lengths of a feature, of the scores and of the tags."""
    first = data[0]
    return {
        "in_dim": first.features.shape[1],
        "num_classes": len(LabelSet.from_dict(data.meta["labels"])),
        "num_tags": first.tags.shape[1],
    }


def save_state(uri: str, training: Training) -> None:
    """Write what :func:`load_state` reads, as a whole or not at all."""
    content = io.BytesIO()
    torch.save(training.state(), content)
    files.write_bytes(uri, content.getvalue())


def load_state(uri: str) -> dict[str, Any]:
    """The state of a training."""
    state: dict[str, Any] = torch.load(io.BytesIO(files.read_bytes(uri)), map_location="cpu", weights_only=True)
    return state


def _epochs(
    training: Training,
    training_data: SequenceFile,
    validation_data: SequenceFile,
    out: str | None,
    save: Callable[[dict[str, float]], None],
) -> None:
    """The epochs that are left.

    Args:
        out: folder for `losses.csv` and `tensorboard/`; None writes none.
        save: makes a checkpoint; gets the losses of the epoch.
    """
    optim = training.recipe.optim
    curves = SummaryWriter(files.join(out, "tensorboard"), purge_step=training.epoch + 1) if out else None
    while training.epoch < optim.epochs:
        started = time.monotonic()
        lr = training.optimizer.param_groups[0]["lr"]
        trained = training.train_epoch(training_data)
        validated = training.validate(validation_data)
        row = {"epoch": training.epoch, "lr": lr, "seconds": round(time.monotonic() - started, 3)}
        row |= {f"train_{name}": value for name, value in trained.items()}
        row |= {f"val_{name}": value for name, value in validated.items()}
        training.history.append(row)
        if curves is not None and out is not None:
            for name, value in row.items():
                curves.add_scalar(name.replace("_", "/", 1), value, training.epoch)
            curves.flush()
            files.write_bytes(files.join(out, "losses.csv"), _csv(training.history))
        if training.epoch % optim.checkpoint_epochs == 0 or training.epoch == optim.epochs:
            save(row)
    if curves is not None:
        curves.close()


def _load_checkpoint(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    with checkpoint.as_directory() as folder:
        return load_state(str(Path(folder) / "state.pt"))


def _csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
