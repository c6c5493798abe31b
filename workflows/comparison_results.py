"""What a comparison says: folds measured as one, the cost of each model, tables over seeds and folds."""

import io
import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from balletal import files
from balletal.annotations import Annotations, read_annotations, write_activitynet
from balletal.features.store import FeatureStore, VideoFeatures
from balletal.labels import LabelSet
from balletal.metrics import boundary_errors, evaluate_detections
from balletal.metrics.localizer import evaluate_localizer
from balletal.metrics.oracle import oracle_instances, oracle_runs
from balletal.report.figures import at_tiou
from balletal.tal.cost import measure_cost
from balletal.tal.localizer import Localizer
from workflows.config import claim
from workflows.console import stderr
from workflows.tables import write_detections


class HeldOut:
    """The localizers of all folds as one: each video is answered for by that which did not learn from it."""

    def __init__(self, name: str, localizers: Sequence[Localizer], videos: Sequence[Iterable[str]]) -> None:
        # A fold's temperature was chosen on the very videos that it is measured on here.
        plain = [one.with_temperature(1.0) for one in localizers]
        self._by_video = {v: one for one, held in zip(plain, videos, strict=True) for v in held}
        self.name, self.digest = name, "+".join(one.digest[:12] for one in localizers)
        self.labels, self.recipe, self.spec = plain[0].labels, plain[0].recipe, plain[0].spec
        self.tags = plain[0].tags

    def localize_with_scores(self, video: VideoFeatures, *args: Any, **options: Any) -> Any:
        return self._by_video[video.video_id].localize_with_scores(video, *args, **options)


def pool_folds(name: str, store: FeatureStore, labels: LabelSet, runs: Sequence[str], out: str) -> dict[str, Any]:
    """Measure the detections of all folds at once, so that each video counts once and no number stands on a few.

    Args:
        runs: folders of the finished runs, one a fold.
        out: folder for the result, of the form that one training run leaves; a finished one is returned as it is.

    Returns:
        as :func:`workflows.train.train`, with ``folds``: the measures of each fold alone. Beside it lies `losses.csv`,
        the mean of the folds' losses.

    Raises:
        InputError: ``out`` holds the result of other runs.
    """
    localizers = [Localizer.load(files.join(run, "bundle")) for run in runs]
    claim(out, {"name": name, "folds": [one.digest for one in localizers]})
    if all(files.exists(files.join(run, "losses.csv")) for run in runs):  # an ensemble has none
        files.write_bytes(files.join(out, "losses.csv"), _mean_losses(runs).to_csv(index=False).encode())
    metrics_uri = files.join(out, "metrics.json")
    if files.exists(metrics_uri):
        return cast(dict[str, Any], files.read_json(metrics_uri))
    each = [files.read_json(files.join(run, "metrics.json")) for run in runs]
    truths = [read_annotations(files.join(run, "ground_truth.json"), labels) for run in runs]
    truth = _joined(truths)
    held_out = cast(Localizer, HeldOut(name, localizers, [t.durations for t in truths]))
    detections, measured = evaluate_localizer(held_out, store.iter_videos(list(truth.durations)), truth)
    metrics = {
        **each[0],
        "split": each[0]["split"] | {"folds": len(runs)},
        "videos": len(truth.durations),
        **measured,
        "losses": {
            side: {part: _mean(run["losses"][side][part] for run in each) for part in losses}
            for side, losses in each[0]["losses"].items()
        },
        "temperature": 1.0,
        "train_seconds": round(sum(run["train_seconds"] for run in each), 1),
        "folds": [
            {"videos": run["videos"], **{key: run[key] for key in ("detection", "frames", "boundaries")}}
            for run in each
        ],
    }
    write_detections(out, detections, held_out, truth.durations)
    write_activitynet(files.join(out, "ground_truth.json"), truth, labels)
    files.write_json(metrics_uri, metrics)
    return metrics


def _mean_losses(runs: Sequence[str]) -> pd.DataFrame:
    tables = [pd.read_csv(io.BytesIO(files.read_bytes(files.join(run, "losses.csv")))) for run in runs]
    return pd.concat(tables).groupby("epoch").mean().reset_index()


def _joined(parts: Sequence[Annotations]) -> Annotations:
    tables = (
        pd.concat([getattr(p, what) for p in parts], ignore_index=True) for what in ("segments", "videos", "tags")
    )
    return Annotations(*tables)


def oracle_rows(features: str, store: FeatureStore, labels: LabelSet, prepared: Sequence[str]) -> list[dict[str, Any]]:
    """What perfect answers would reach that are as coarse as these features: one answer a feature, no sub-steps.

    Args:
        prepared: folders of the cells, one a fold, whose validation videos are measured at once.

    Returns:
        one row for perfect labels merged into runs, which is all that frame-wise labelling can say, and one for
        instances kept apart; JSON-able.
    """
    truth = _joined([read_annotations(files.join(folder, "ground_truth.json"), labels) for folder in prepared])
    step = store.spec.stride_s
    perfect = {
        "merged": oracle_runs(truth.segments, labels, truth.durations, step),
        "apart": oracle_instances(truth.segments, step),
    }
    return [
        {
            "features": features,
            "oracle": kind,
            "step_s": step,
            "detection": evaluate_detections(truth.segments, table, labels=labels.labels),
            "boundaries": boundary_errors(truth.segments, table),
        }
        for kind, table in perfect.items()
    ]


def cost_of(run: str, store: FeatureStore) -> dict[str, Any]:
    """What the model of a finished run costs, measured once on a validation video and kept in the run's `cost.json`."""
    uri = files.join(run, "cost.json")
    if not files.exists(uri):
        videos = store.iter_videos(sorted(read_annotations(files.join(run, "ground_truth.json")).durations))
        torch.set_num_threads(1)  # the same on every machine, and what a replica that shares one has
        longest = max(videos, key=lambda video: len(video.features))
        files.write_json(uri, measure_cost(Localizer.load(files.join(run, "bundle")), longest))
    return cast(dict[str, Any], files.read_json(uri))


def comparison_table(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a run: what the paper's Table 2 gives, and what it lacks."""
    table = pd.DataFrame([_row(run) for run in runs])
    return table.astype(dict.fromkeys(("folds", "fold_mean", "fold_std"), float))  # empty where there are no folds


def _row(run: dict[str, Any]) -> dict[str, Any]:
    folds = [fold["detection"]["average_map"] for fold in run.get("folds", ())]
    return {
        "run": run["name"],
        "features": run["features"],
        "model": run["model"],
        "recipe": run["recipe"],
        "seed": run["seed"],
        "average_map": run["detection"]["average_map"],
        "map_0.5": at_tiou(run["detection"], run["detection"]["map"], 0.5),
        "folds": len(folds) or None,
        "fold_mean": _mean(folds),
        "fold_std": _std(folds),
        "frame_accuracy": run["frames"]["accuracy"],
        "foreground_accuracy": run["frames"]["foreground_accuracy"],
        "start_error_s": run["boundaries"]["start_median_s"],
        "end_error_s": run["boundaries"]["end_median_s"],
        "train_loss": _loss(run, "train", "total"),
        "val_loss": _loss(run, "val", "total"),
        "val_boundary_loss": _loss(run, "val", "boundary"),
        "parameters": run["parameters"],
        "flops_per_minute": run["cost"]["flops_per_minute"],
        "latency_s": run["cost"]["latency_s"],
        "train_seconds": run["train_seconds"],
    }


def _loss(run: dict[str, Any], side: str, part: str) -> float:
    return float(run["losses"].get(side, {}).get(part, "nan"))  # an ensemble has none of its own


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each features, model and recipe: means over the seeds, best average mAP first.

    ``average_map_std`` is the sample standard deviation over seeds (empty for one), ``fold_std`` the mean over the
    seeds of that over folds: how far one split is from another.
    """
    groups = table.groupby(["features", "model", "recipe"], sort=False)
    first, mean = groups[["folds", "parameters"]].first(), groups.mean(numeric_only=True)
    summary = mean.drop(columns=["seed", "folds", "parameters", *(c for c in mean if c.endswith("loss"))])
    summary.insert(0, "seeds", groups.size())
    summary.insert(2, "average_map_std", groups["average_map"].agg(partial(pd.Series.std, ddof=1)))
    return summary.join(first).sort_values("average_map", ascending=False, kind="stable").reset_index()


def oracle_table(oracle: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each of :func:`oracle_rows`."""
    return pd.DataFrame(
        {
            "features": row["features"],
            "oracle": row["oracle"],
            "step_s": row["step_s"],
            "average_map": row["detection"]["average_map"],
            "map_0.5": at_tiou(row["detection"], row["detection"]["map"], 0.5),
            "start_error_s": row["boundaries"]["start_median_s"],
            "end_error_s": row["boundaries"]["end_median_s"],
        }
        for row in oracle
    )


def show(runs: list[dict[str, Any]], oracle: list[dict[str, Any]], kind: str) -> None:
    """Print the comparison for a person."""
    summary = over_seeds(comparison_table(runs))
    table = Table(title=f"validation videos, {kind}", box=None, title_justify="left")
    named, folded = summary["features"].any(), summary["folds"].notna().any()
    columns = ["avg mAP", "mAP@.5", "frames", "in steps", "start", "end", "params", "FLOP/min", "latency", "time"]
    for column in ("model", *(["features"] if named else ())):
        table.add_column(column, no_wrap=True)
    for column in (*columns[:1], *(["folds"] if folded else ()), *columns[1:]):
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary.rename(columns={"map_0.5": "map_at_half"}).itertuples():
        table.add_row(
            f"{row.model}-{row.recipe}",
            *([row.features] if named else ()),
            _spread(row.average_map, row.average_map_std),
            *([_spread(row.fold_mean, row.fold_std)] if folded else ()),
            f"{row.map_at_half:.3f}",
            f"{row.frame_accuracy:.1%}",
            f"{row.foreground_accuracy:.1%}",
            _seconds(row.start_error_s),
            _seconds(row.end_error_s),
            f"{row.parameters / 1e6:.1f} M",
            f"{row.flops_per_minute / 1e9:.2f} G",
            f"{1000 * row.latency_s:.0f} ms",
            f"{row.train_seconds:.0f} s",
        )
    table.add_section()
    for row in oracle_table(oracle).rename(columns={"map_0.5": "map_at_half"}).itertuples():
        table.add_row(
            f"oracle, {row.oracle}",
            *([row.features] if named else ()),
            f"{row.average_map:.3f}",
            *([""] if folded else ()),
            f"{row.map_at_half:.3f}",
            *("", "", _seconds(row.start_error_s), _seconds(row.end_error_s)),
        )
    # Whole, also where the terminal is narrower: a number that is cut short is none.
    Console(stderr=True, highlight=False, width=max(stderr.width, 180)).print(table)


def _spread(mean: float, std: float) -> str:
    return f"{mean:.3f}" + (f" ± {std:.3f}" if pd.notna(std) else "")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if pd.notna(value) else "-"


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None


def _std(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
