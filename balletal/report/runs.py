"""Reading what a report shows: one training run, or the runs of a comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from balletal import files
from balletal.annotations import read_annotations
from balletal.errors import InputError
from balletal.parquet import read_table
from balletal.segments import DETECTION_COLUMNS


@dataclass(frozen=True)
class Run:
    """One trained model and how it did on the report's subset.

    Attributes:
        name: unique in the report.
        metrics: content of the run's ``metrics.json``.
        losses: one row an epoch (``epoch``, ``train_total``, ``val_total`` and their terms); empty when none were kept.
        detections: table of detections on the subset.
    """

    name: str
    metrics: dict[str, Any]
    losses: pd.DataFrame
    detections: pd.DataFrame


@dataclass(frozen=True)
class Results:
    """Everything that a report shows.

    Attributes:
        title: the folder's name.
        runs: in the order of their average mAP, best first.
        ground_truth: segment table of the subset.
        durations: seconds of each annotated video, as far as they are known.
        unfinished: names of runs of a comparison that have no metrics.
    """

    title: str
    runs: tuple[Run, ...]
    ground_truth: pd.DataFrame
    durations: dict[str, float]
    unfinished: tuple[str, ...] = ()


def read_results(folder: str | Path) -> Results:
    """A train run directory (it has ``metrics.json``) or a compare directory (it has ``runs/``).

    Raises:
        InputError: neither of the two, a file is missing, or two runs were evaluated on different subsets.
    """
    folder = Path(folder)
    if (folder / "metrics.json").is_file():
        run_folders = [folder]
    else:
        run_folders = sorted(path.parent for path in folder.glob("runs/*/metrics.json"))
        if (folder / "comparison.json").is_file():  # names the runs of the last comparison; others are older ones
            names = {run["name"] for run in files.read_json(str(folder / "comparison.json"))["runs"]}
            run_folders = [path for path in run_folders if path.name in names]
    if not run_folders:
        raise InputError(str(folder), expected="a train or compare directory", found="no metrics.json and no runs/*/")
    runs = [_read_run(path) for path in run_folders]
    subsets = sorted({str(run.metrics.get("subset")) for run in runs})
    if len(subsets) > 1:
        raise InputError(str(folder), expected="runs evaluated on one subset", found=", ".join(subsets))

    truth_file = next(
        (path / "ground_truth.json" for path in (folder, *run_folders) if (path / "ground_truth.json").is_file()), None
    )
    if truth_file is None:
        raise InputError(str(folder / "ground_truth.json"), expected="an ActivityNet file", found="nothing there")
    truth = read_annotations(str(truth_file))
    runs.sort(key=lambda run: -(run.metrics["detection"].get("average_map") or 0.0))
    return Results(
        title=folder.resolve().name,
        runs=tuple(runs),
        ground_truth=truth.segments,
        durations=truth.durations,
        unfinished=tuple(sorted(path.name for path in folder.glob("runs/*") if path not in run_folders)),
    )


def _read_run(folder: Path) -> Run:
    metrics = files.read_json(str(folder / "metrics.json"))
    if not isinstance(metrics, dict) or "detection" not in metrics:
        raise InputError(str(folder / "metrics.json"), expected="the metrics of a run", found="no key 'detection'")
    losses = folder / "losses.csv"
    detections = folder / "detections.parquet"
    try:
        found = read_table(str(detections)).select(list(DETECTION_COLUMNS)).to_pandas()
    except KeyError as error:
        raise InputError(
            str(detections), expected=f"columns {', '.join(DETECTION_COLUMNS)}", found=str(error)
        ) from None
    return Run(
        name=str(metrics.get("name") or folder.resolve().name),
        metrics=metrics,
        losses=pd.read_csv(losses) if losses.is_file() else pd.DataFrame(),
        detections=found,
    )
