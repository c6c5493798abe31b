"""Compare models and recipes on one split of one feature store: the paper's Table 2, measured.

sequences once -> one training run for each model x recipe x seed, side by side -> comparison.json, .csv, report.html
"""

from typing import Annotated, Any

import pandas as pd
import ray
import typer
from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray.exceptions import RayTaskError
from rich.table import Table

from balletal import files
from balletal.annotations import By, Split, load_split, make_split, read_annotations
from balletal.errors import BalletalError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import Projection
from balletal.tal.config import ModelName, Recipe, RecipeName, recipe
from workflows.cluster import ray_session
from workflows.config import merged, read_yaml, validated, with_settings
from workflows.console import print_json, run, say, stderr
from workflows.report import report
from workflows.train import prepare, train


class SplitConfig(BaseModel):
    """How videos are divided: drawn, or read from a file."""

    model_config = ConfigDict(extra="forbid")

    by: By = "video"
    seed: int = 0
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    file: str | None = None


class ComparisonConfig(BaseModel):
    """What every comparison needs to know, wherever its features come from."""

    model_config = ConfigDict(extra="forbid")

    out: str
    annotations: str
    labels: str = "annchor-coarse"
    split: SplitConfig = SplitConfig()
    models: list[ModelName] = Field(["lstm", "cnn"], min_length=1)
    recipes: list[RecipeName] = Field(["paper", "localize"], min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    # Values of a recipe by what they apply to: a recipe's name, or "<model>-<recipe>", which goes over it.
    overrides: dict[str, dict[str, Any]] = {}
    workers: int = Field(1, gt=0, description="Ray Train workers of a run")
    data: str = Field("", description="what the models learn from, with its licence")

    @field_validator("out")
    @classmethod
    def _local(cls, out: str) -> str:
        if "://" in out:  # said before hours of training, not by the report after them
            raise ValueError("should be a local folder: the report is not written to object stores yet")
        return out


class CompareConfig(ComparisonConfig):
    """A comparison on features and a projection that stand."""

    store: str
    projection: str


def draw_split(config: ComparisonConfig, store: FeatureStore) -> Split:
    """The configured split of the videos that have both features and annotations."""
    if config.split.file is not None:
        return load_split(config.split.file)
    annotated = read_annotations(config.annotations, LabelSet.load(config.labels)).select(store.video_ids())
    return make_split(annotated, config.split.by, config.split.seed, config.split.fractions)


def compare(
    config: ComparisonConfig, store: FeatureStore, projection: Projection, split: Split
) -> list[dict[str, Any]]:
    """Train and measure every pair of model and recipe, as many at once as there are CPUs (or GPUs).

    Returns:
        the metrics of each run, also written to ``comparison.json`` and ``comparison.csv`` in ``config.out``.
    """
    out = files.absolute(config.out)  # Ray Train takes no relative folder
    labels = LabelSet.load(config.labels)
    annotated = read_annotations(config.annotations, labels).select(store.video_ids())
    prepare(store, projection, annotated, labels, split, out)
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 1))
    units = int(resources.get("GPU", 0)) or cpus
    planned = [(m, r, s) for m in config.models for r in config.recipes for s in config.seeds]
    at_once = max(1, min(len(planned), units // config.workers))
    cpus_each = max(1, cpus // (at_once * config.workers))
    # The dearest runs first, so that the last one to end is a short one.
    waiting = sorted(planned, key=lambda pair: pair[1] == "paper")
    running: dict[ray.ObjectRef, str] = {}
    done: dict[str, dict[str, Any]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            model, recipe_name, seed = waiting.pop(0)
            name = f"{model}-{recipe_name}" + (f"-seed{seed}" if len(config.seeds) > 1 else "")
            say(f"{name}: training")
            running[
                _train.remote(
                    store,
                    projection,
                    labels,
                    _recipe(config, model, recipe_name, seed),
                    prepared=out,
                    out=files.join(out, "runs", name),
                    name=name,
                    recipe_name=recipe_name,
                    workers=config.workers,
                    cpus=cpus_each,
                    data=config.data,
                )
            ] = name
        (finished, *_), _ = ray.wait(list(running))
        name = running.pop(finished)
        try:
            done[name] = ray.get(finished)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, BalletalError) else error from None
        detection = done[name]["detection"]
        say(f"{name}: average mAP {detection['average_map']:.3f} after {done[name]['train_seconds']:.0f} s")
    runs = [done[name] for name in sorted(done)]
    files.write_json(files.join(out, "comparison.json"), {"runs": runs})
    table = comparison_table(runs)
    files.write_bytes(files.join(out, "comparison.csv"), table.to_csv(index=False).encode())
    return runs


# No CPU of its own: it waits for the workers that Ray Train starts.
_train = ray.remote(num_cpus=0, max_retries=0)(train)


def _recipe(config: ComparisonConfig, model: ModelName, name: RecipeName, seed: int) -> Recipe:
    values = recipe(model, name).model_dump(mode="json") | {"seed": seed}
    for key in (name, f"{model}-{name}"):
        values = merged(values, config.overrides.get(key, {}))
    return validated(Recipe, values, where=f"overrides of {model}-{name}")


def comparison_table(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a run: what the paper's Table 2 gives, and what it lacks."""
    return pd.DataFrame(
        {
            "run": run["name"],
            "average_map": run["detection"]["average_map"],
            "map_0.5": dict(zip(run["detection"]["tiou"], run["detection"]["map"], strict=True)).get(0.5),
            "frame_accuracy": run["frames"]["accuracy"],
            "foreground_accuracy": run["frames"]["foreground_accuracy"],
            "start_error_s": run["boundaries"]["start_median_s"],
            "end_error_s": run["boundaries"]["end_median_s"],
            "train_loss": run["losses"]["train"]["total"],
            "val_loss": run["losses"]["val"]["total"],
            "val_boundary_loss": run["losses"]["val"]["boundary"],
            "parameters": run["parameters"],
            "train_seconds": run["train_seconds"],
        }
        for run in runs
    )


def show(runs: list[dict[str, Any]], kind: str) -> None:
    """Print the comparison for a person."""
    table = Table(title=f"validation videos, split by {kind}", box=None, title_justify="left")
    for column in ("run", "avg mAP", "mAP@.5", "frames", "in steps", "start", "end", "params", "time"):
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for row in comparison_table(runs).rename(columns={"map_0.5": "map_at_half"}).itertuples():
        errors = [f"{e:.2f} s" if pd.notna(e) else "-" for e in (row.start_error_s, row.end_error_s)]
        table.add_row(
            row.run,
            f"{row.average_map:.3f}",
            f"{row.map_at_half:.3f}",
            f"{row.frame_accuracy:.1%}",
            f"{row.foreground_accuracy:.1%}",
            *errors,
            f"{row.parameters / 1e6:.1f} M",
            f"{row.train_seconds:.0f} s",
        )
    stderr.print(table)


def main(
    config: Annotated[str, typer.Argument(help="YAML: store, projection, annotations, out, models, recipes ...")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.key=value over the file.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics of all runs as JSON.")] = False,
) -> None:
    """Train models x recipes x seeds on one split and compare them, with a report."""
    resolved = validated(CompareConfig, with_settings(read_yaml(config), settings or []), where=config)
    projection = Projection.load(resolved.projection)
    store = FeatureStore.open_for(resolved.store, projection.spec, owner=f"projection {resolved.projection}")
    with ray_session(address):
        runs = compare(resolved, store, projection, draw_split(resolved, store))
    written = report(resolved.out)
    if as_json:
        print_json({"runs": runs, "report": written})
    else:
        show(runs, resolved.split.by)
        say(f"report: {written}")


if __name__ == "__main__":
    run(main)
