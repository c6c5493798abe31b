"""Search the values of a recipe with Ray Tune: random draws, of which ASHA stops the worse ones early.

sequences once -> trials of fractional CPUs or GPUs -> reports.json as they come -> trials.csv, best.yaml, study.svg

`reports.json` is the study's manifest: every report in the order in which ASHA saw it. The same command again replays
it into a new ASHA and goes on with the trials that had not ended, each from its own state. (Ray's `Tuner.restore`
brings back trials but not ASHA's rungs, so the rest of a restored study would be compared with nothing.)
"""

import os
import tempfile
import time
from functools import partial
from itertools import groupby
from operator import itemgetter
from types import SimpleNamespace
from typing import Annotated, Any, cast

import pandas as pd
import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from ray import tune as ray_tune
from ray.tune import Stopper
from ray.tune.schedulers import ASHAScheduler

from balletal import files
from balletal.annotations import Annotations, read_annotations
from balletal.errors import BalletalError, DivergedError
from balletal.features.store import FeatureStore, VideoFeatures
from balletal.labels import LabelSet
from balletal.metrics.detection import evaluate_detections
from balletal.projection import Projection
from balletal.report.study import study_figure
from balletal.tal.config import DEFAULT_STRIDE_S, ModelName, Recipe, RecipeName, Seed, recipe
from balletal.tal.localizer import Localizer, localize_videos
from balletal.tal.models import TemporalModel
from balletal.tal.sequences import SequenceFile
from balletal.tal.training import Training
from workflows.cluster import ray_session
from workflows.comparison_config import CompareConfig, SplitConfig, local_folder
from workflows.comparison_data import make_cells
from workflows.config import claim, merged, read_yaml, validated, with_settings
from workflows.console import print_json, run, say
from workflows.fitting import load_state, new_training, save_state
from workflows.train import prepare
from workflows.tune_space import Space, check_space, draw

REPORTS, TRIALS, BEST, FIGURE = "reports.json", "trials.csv", "best.yaml", "study.svg"


class TuneConfig(BaseModel):
    """A study: data, the recipe it begins with, where it searches and for how long."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    out: str
    store: str
    annotations: str
    projection: str | None = None  # None: fitted on the training videos, of `dim` components
    dim: int = Field(256, gt=0)
    labels: str = "annchor-coarse"
    split: SplitConfig = SplitConfig()
    model: ModelName = "lstm"
    recipe: RecipeName = "localize"
    overrides: dict[str, Any] = Field({}, description="values of the recipe that all trials share")
    space: Space = Field(min_length=1)
    seed: Seed = 0
    trials: int = Field(20, gt=0, description="a study that has ended goes on when it is given more")
    seconds: float | None = Field(None, gt=0, description="of training, summed over the trials; then no trial goes on")
    report_epochs: int = Field(2, gt=0, description="epochs between reports")
    grace_epochs: int = Field(4, gt=0, description="epochs before ASHA may stop a trial")
    reduction: float = Field(3, gt=1, description="of the trials at a rung, the best 1/reduction go on")
    cpus: float = Field(1, gt=0, description="of a trial; a fraction shares one")
    gpus: float = Field(0, ge=0)

    _local = field_validator("out")(local_folder)

    @model_validator(mode="after")
    def _one_split(self) -> "TuneConfig":
        if self.split.folds:
            raise ValueError("a study measures on one split")
        return self

    def base(self, stride_s: float = DEFAULT_STRIDE_S) -> Recipe:
        """The shipped recipe for features that far apart, with the study's overrides on top."""
        shipped = recipe(self.model, self.recipe, stride_s)
        values = merged(shipped.model_dump(mode="json") | {"seed": self.seed}, self.overrides)
        return validated(Recipe, values, where="overrides")


def tune(config: TuneConfig, address: str | None = None) -> dict[str, Any]:
    """Run the trials that have not ended, and write what was found.

    Returns:
        ``{"trials": n, "ended": n, "best": row of trials.csv, "figure": path}``; ``best`` None before any report.

    Raises:
        InputError: a space that no recipe has, ``out`` holds a study of another configuration, bad data.
    """
    config = config.model_copy(update={"out": files.absolute(config.out)})
    out = config.out
    check_space(config.space, config.base(), config.seed, config.trials)
    # How long to search may change from one call to the next; what is searched may not.
    claim(out, config.model_dump(mode="json", exclude={"out", "trials", "seconds", "cpus", "gpus"}))
    store, projection = _prepare(config)
    base = config.base(store.spec.stride_s)
    study = Study(config, base.optim.epochs)
    waiting = [trial for trial in range(config.trials) if trial not in study.ended]
    if waiting and not study.spent():
        with ray_session(address), tempfile.TemporaryDirectory(prefix="balletal-") as scratch:
            os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the study keeps its own record
            os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # whose boxes `verbose` does not hide
            os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # an interrupt ends this command as any other
            trainable = partial(_run_trial, config=config, store=store, projection=projection)
            results = ray_tune.Tuner(
                ray_tune.with_resources(trainable, {"cpu": config.cpus, "gpu": config.gpus}),
                param_space={"trial": ray_tune.grid_search(waiting)},
                tune_config=ray_tune.TuneConfig(scheduler=study),
                run_config=ray_tune.RunConfig(
                    name="study",
                    storage_path=scratch,  # what is worth keeping is in `out`
                    stop=_Budget(study),
                    failure_config=ray_tune.FailureConfig(max_failures=3),  # a worker that is lost
                    verbose=0,
                ),
            ).fit()
        if results.errors:
            _write(config, base, study)
            error = results.errors[0]
            cause = getattr(error, "cause", error)
            raise BalletalError(f"{len(results.errors)} of {len(waiting)} trials failed, such as: {cause}") from None
    return _write(config, base, study)


def _prepare(config: TuneConfig) -> tuple[FeatureStore, Projection]:
    shared = config.model_dump(include={"out", "store", "annotations", "projection", "dim", "labels", "split"})
    (cell,) = make_cells(validated(CompareConfig, shared, where=config.out))
    labels = LabelSet.load(config.labels)
    annotated = read_annotations(config.annotations, labels).select(cell.store.video_ids())
    prepare(cell.store, cell.projection, annotated, labels, cell.split, config.out)
    return cell.store, cell.projection


class Study(ASHAScheduler):
    """ASHA on the driver, with a memory: each report is written down with what was decided on it.

    Trials are known by their number in the study, not by Ray's id, which is another after a restart.
    """

    def __init__(self, config: TuneConfig, epochs: int) -> None:
        super().__init__(
            time_attr="epoch",
            metric="average_map",
            mode="max",
            max_t=epochs,
            grace_period=min(config.grace_epochs, epochs),
            reduction_factor=config.reduction,
        )
        self._uri, self._budget = files.join(config.out, REPORTS), config.seconds
        self.reports: list[dict[str, Any]] = files.read_json(self._uri) if files.exists(self._uri) else []
        for report in self.reports:
            numbered = _numbered(report["trial"])
            if numbered.trial_id not in self._trial_info:
                super().on_trial_add(None, numbered)
            super().on_trial_result(None, numbered, report)

    @property
    def ended(self) -> dict[int, str]:
        """Trials that need no more training, and why: ``finished``, ``stopped`` (by ASHA) or ``diverged``."""
        return {report["trial"]: report["ended"] for report in self.reports if report["ended"]}

    def spent(self) -> bool:
        """Whether the budget of seconds is used up."""
        last = {report["trial"]: report["seconds"] for report in self.reports}
        return self._budget is not None and sum(last.values()) >= self._budget

    def progress(self) -> pd.DataFrame:
        """The best average mAP so far (``best``) over the seconds of training that all trials took together."""
        table = pd.DataFrame(self.reports)
        taken = table["seconds"] - table.groupby("trial")["seconds"].shift(fill_value=0.0)
        return pd.DataFrame({"seconds": taken.cumsum(), "best": table["average_map"].cummax()})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _numbered(trial.config["trial"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number, epoch = trial.config["trial"], result["epoch"]
        if any(report["trial"] == number and report["epoch"] >= epoch for report in self.reports):
            return str(self.CONTINUE)  # told again by a trial that went on from its state
        decision = str(super().on_trial_result(tune_controller, _numbered(number), result))
        ended = ""
        if result["diverged"]:
            decision, ended = self.STOP, "diverged"
        elif decision == self.STOP:
            ended = "finished" if epoch >= self._max_t else "stopped"
        kept = {key: result[key] for key in ("epoch", "average_map", "seconds")}
        self.reports.append({"trial": number, **kept, "ended": ended})
        files.write_json(self._uri, self.reports)
        say(f"trial {number}, epoch {epoch}: average mAP {result['average_map']:.3f} {ended}".rstrip())
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last report was seen as it came."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to forget."""


class _Budget(Stopper):
    """Ends all trials when the study's seconds are used up."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._study.spent()


def _numbered(trial: int) -> SimpleNamespace:
    """What ASHA wants to know of a trial."""
    return SimpleNamespace(trial_id=str(trial))


def _run_trial(values: dict[str, int], *, config: TuneConfig, store: FeatureStore, projection: Projection) -> None:
    """One trial: epochs, and every few of them a report of how the averaged model does on the validation videos."""
    trial = values["trial"]
    _, settings = draw(config.space, config.base(store.spec.stride_s), config.seed, trial)
    data = [SequenceFile(files.join(config.out, "sequences", f"{s}.parquet")) for s in ("training", "validation")]
    truth = read_annotations(files.join(config.out, "ground_truth.json"), LabelSet.load(config.labels))
    videos = list(store.iter_videos(list(truth.durations)))
    training = new_training(settings, data[0], "cuda" if config.gpus else "cpu")
    state = _state_uri(config, trial)
    if files.exists(state):
        training.load_state(load_state(state))
    for row in training.history:  # the driver knows those that it has seen
        ray_tune.report(row)
    while training.epoch < settings.optim.epochs:
        before = training.history[-1]["seconds"] if training.history else 0.0
        started, diverged = time.monotonic(), False
        try:
            for _ in range(min(config.report_epochs, settings.optim.epochs - training.epoch)):
                training.train_epoch(data[0])
                training.validate(data[1])  # the plateau schedule's step, as in `train`
            found = _average_map(training, settings, projection, LabelSet.load(config.labels), videos, truth)
        except DivergedError:
            found, diverged = 0.0, True
        seconds = round(before + time.monotonic() - started, 2)
        row = {"epoch": training.epoch + diverged, "average_map": found, "seconds": seconds, "diverged": diverged}
        training.history.append(row)
        save_state(state, training)
        ray_tune.report(row)
        if diverged:
            return


def _average_map(
    training: Training,
    settings: Recipe,
    projection: Projection,
    labels: LabelSet,
    videos: list[VideoFeatures],
    truth: Annotations,
) -> float:
    localizer = Localizer("trial", labels, projection, settings, cast(TemporalModel, training.averaged.module))
    found = localize_videos(localizer, videos, truth.durations)
    return float(evaluate_detections(truth.segments, found, labels=labels.labels)["average_map"])


def _state_uri(config: TuneConfig, trial: int) -> str:
    return files.join(config.out, "states", f"{trial:04d}.pt")


def _write(config: TuneConfig, base: Recipe, study: Study) -> dict[str, Any]:
    """`trials.csv`, `best.yaml` and the figure; the states of trials that have ended go."""
    ended = study.ended
    for trial in ended:
        files.remove(_state_uri(config, trial))
    rows = []
    for trial, reports in groupby(sorted(study.reports, key=lambda report: int(report["trial"])), itemgetter("trial")):
        *_, last = reports
        drawn, _ = draw(config.space, base, config.seed, trial)
        kept = {"epochs": last["epoch"], "average_map": last["average_map"], "seconds": last["seconds"]}
        rows.append({"trial": trial, "status": ended.get(trial, "unfinished"), **kept, **drawn})
    summary: dict[str, Any] = {"trials": len(rows), "ended": len(ended), "best": None, "figure": None}
    if not rows:
        return summary
    rows.sort(key=lambda row: (row["status"] == "diverged", -row["average_map"]))
    table, best = pd.DataFrame(rows), rows[0]
    files.write_bytes(files.join(config.out, TRIALS), table.to_csv(index=False).encode())
    _, settings = draw(config.space, base, config.seed, best["trial"])
    text = f"# Trial {best['trial']} of {len(rows)}: average mAP {best['average_map']:.4f}, {best['epochs']} epochs.\n"
    text += yaml.safe_dump(settings.model_dump(mode="json", exclude={"seed"}), sort_keys=False)
    files.write_bytes(files.join(config.out, BEST), text.encode())
    logarithmic = [path for path, domain in config.space.items() if domain.loguniform is not None]
    figure = study_figure(table, list(config.space), logarithmic, study.progress())
    files.write_bytes(files.join(config.out, FIGURE), figure.encode())
    return summary | {"best": best, "figure": files.join(config.out, FIGURE)}


def main(
    config: Annotated[str, typer.Argument(help="YAML: store, annotations, out, model, space, trials ...")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.key=value over the file.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Search a recipe's values with Ray Tune: a table of all trials, the best as YAML for train, a figure.

    The same command continues a study that was stopped and does nothing to one that has ended.
    """
    resolved = validated(TuneConfig, with_settings(read_yaml(config), settings or []), where=config)
    summary = tune(resolved, address)
    if as_json:
        print_json(summary)
        return
    say(f"{summary['trials']} trials, {summary['ended']} ended: {files.join(resolved.out, TRIALS)}")
    if best := summary["best"]:
        say(f"best: trial {best['trial']}, average mAP {best['average_map']:.3f} after {best['epochs']} epochs")
        say(
            f"train it: balletal train --model {resolved.model} --recipe {resolved.recipe} "
            f"--config {files.join(resolved.out, BEST)} ..."
        )


if __name__ == "__main__":
    run(main)
