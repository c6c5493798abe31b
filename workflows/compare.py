"""Compare features, models and recipes on the same videos: the paper's Table 2, measured, with spread and cost.

cells (features x folds) once -> one training run for each cell x model x recipe x seed, side by side -> folds measured
as one -> what each model costs -> comparison.json, comparison.csv, summary.csv, report.html
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any

import ray
import typer
from ray.exceptions import RayTaskError

from balletal import files
from balletal.annotations import read_annotations
from balletal.errors import BalletalError
from balletal.labels import LabelSet
from balletal.tal.config import ModelName, Recipe, RecipeName
from balletal.tal.localizer import Localizer
from workflows.cluster import ray_session
from workflows.comparison_config import CompareConfig, ComparisonConfig
from workflows.comparison_data import Cell, make_cells
from workflows.comparison_results import (
    comparison_table,
    cost_of,
    oracle_rows,
    oracle_table,
    over_seeds,
    pool_folds,
    show,
)
from workflows.config import read_yaml, validated, with_settings
from workflows.console import print_json, run, say
from workflows.ensemble import ensemble
from workflows.fitting import weights_that_fit
from workflows.report import report
from workflows.train import prepare, train


@dataclass(frozen=True)
class Planned:
    """One training run: ``name`` is that of its row, which all folds share."""

    cell: Cell
    model: ModelName
    recipe: RecipeName
    seed: int
    name: str
    out: str

    @property
    def init(self) -> Localizer | None:
        return self.cell.init.get(self.model)

    @property
    def title(self) -> str:
        return self.name if self.cell.fold is None else f"{self.name}, fold {self.cell.fold}"


def compare(config: ComparisonConfig, cells: list[Cell]) -> dict[str, Any]:
    """Train and measure every model and recipe on every cell, as many at once as there are CPUs (or GPUs).

    Returns:
        what `comparison.json` holds: ``runs``, the metrics of each run with its ``cost``, sorted by name (all
        folds are one), and ``oracle``, what features as coarse as these allow. `comparison.csv` has one row a run,
        `summary.csv` means and spread over seeds, `oracle.csv` the oracle's rows.
    """
    out = files.absolute(config.out)  # Ray Train takes no relative folder
    labels = LabelSet.load(config.labels)
    annotated = read_annotations(config.annotations, labels)
    for cell in cells:
        known = annotated.select(cell.store.video_ids())
        more: dict[str, Any] = {"mirrored": cell.mirrored, "further": cell.further}
        prepare(cell.store, cell.projection, known, labels, cell.split, cell.folder, **more)
    planned = _plan(config, cells, out)
    _train_all(config, labels, planned)

    by_name: dict[str, list[Planned]] = {}
    for one in [*planned, *_join_all(config, cells, planned, out)]:
        by_name.setdefault(one.name, []).append(one)
    runs = []
    for name, parts in sorted(by_name.items()):
        cell = parts[0].cell
        if cell.fold is None:
            metrics = files.read_json(files.join(parts[0].out, "metrics.json"))
        else:
            folds = [part.out for part in parts]
            metrics = _result(_pool.remote(name, cell.store, labels, folds, files.join(out, "runs", name)))
            say(f"{name}: average mAP {metrics['detection']['average_map']:.3f}, {len(parts)} folds at once")
        # One after the other and not amid the trainings, which would share the cores with it.
        runs.append(metrics | {"cost": _result(_cost.remote(parts[0].out, cell.store))})
    table = comparison_table(runs)
    oracle = _oracle(cells, labels)
    results = {"runs": runs, "oracle": oracle}
    files.write_json(files.join(out, "comparison.json"), results)
    tables = {"comparison": table, "summary": over_seeds(table), "oracle": oracle_table(oracle)}
    for name, content in tables.items():
        files.write_bytes(files.join(out, f"{name}.csv"), content.to_csv(index=False).encode())
    return results


def _join_all(config: ComparisonConfig, cells: list[Cell], planned: list[Planned], out: str) -> list[Planned]:
    """The ensembles of each cell, as if they had been trained."""
    joined = []
    for cell in cells:
        for name, members in config.ensembles.items():
            of = [one for one in planned if one.cell is cell and f"{one.model}-{one.recipe}" in members]
            row = "-".join((*([cell.features] if cell.features else ()), name))
            folder = files.join(out if cell.fold is None else cell.folder, "runs", row)
            called = {"name": row, "model": name, "features": cell.features}
            metrics = _result(_ensemble.remote(cell.store, [one.out for one in of], folder, **called))
            joined.append(replace(of[0], name=row, out=folder))
            say(f"{joined[-1].title}: average mAP {metrics['detection']['average_map']:.3f}")
    return joined


def _oracle(cells: list[Cell], labels: LabelSet) -> list[dict[str, Any]]:
    folders: dict[str, list[str]] = {}
    for cell in cells:
        folders.setdefault(cell.features, []).append(cell.folder)
    stores = {cell.features: cell.store for cell in cells}
    return [row for name, parts in folders.items() for row in oracle_rows(name, stores[name], labels, parts)]


def _plan(config: ComparisonConfig, cells: list[Cell], out: str) -> list[Planned]:
    planned = []
    for cell in cells:
        for (model, recipe_name), seed in product(config.pairs(), config.seeds):
            of_seed = (f"seed{seed}",) if len(config.seeds) > 1 else ()
            name = "-".join((*([cell.features] if cell.features else ()), model, recipe_name, *of_seed))
            folder = files.join(out if cell.fold is None else cell.folder, "runs", name)
            planned.append(Planned(cell, model, recipe_name, seed, name, folder))
    # The dearest runs first, so that the last one to end is a short one.
    return sorted(planned, key=lambda one: one.recipe == "paper")


def _train_all(config: ComparisonConfig, labels: LabelSet, planned: list[Planned]) -> None:
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 1))
    units = int(resources.get("GPU", 0)) or cpus
    at_once = max(1, min(len(planned), units // config.workers))
    cpus_each = max(1, cpus // (at_once * config.workers))
    alone = config.workers == 1
    task = _train  # it waits for Ray Train's workers and takes no CPU itself
    if alone:  # it trains; where its process is lost, another goes on from its checkpoint
        task = _train.options(num_cpus=cpus_each, num_gpus=int(bool(resources.get("GPU"))), max_retries=3)
    recipes = [_recipe(config, one) for one in planned]
    for one, settings in zip(planned, recipes, strict=True):
        if one.init is not None:
            weights_that_fit(one.init, settings, one.cell.projection, labels)
    waiting = list(zip(planned, recipes, strict=True))
    running: dict[ray.ObjectRef, Planned] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            one, settings = waiting.pop(0)
            say(f"{one.title}: training")
            running[
                task.remote(
                    one.cell.store,
                    one.cell.projection,
                    labels,
                    settings,
                    prepared=one.cell.folder,
                    out=one.out,
                    name=one.name,
                    recipe_name=one.recipe,
                    workers=config.workers,
                    cpus=cpus_each,
                    alone=alone,
                    init=one.init,
                    data=config.data,
                    features=one.cell.features,
                )
            ] = one
        (finished, *_), _ = ray.wait(list(running))
        one = running.pop(finished)
        metrics = _result(finished)
        say(
            f"{one.title}: average mAP {metrics['detection']['average_map']:.3f} after {metrics['train_seconds']:.0f} s"
        )


def _result(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, BalletalError) else error from None


_train = ray.remote(num_cpus=0, max_retries=0)(train)
_ensemble = ray.remote(num_cpus=1)(ensemble)
_pool = ray.remote(num_cpus=1)(pool_folds)
_cost = ray.remote(num_cpus=1)(cost_of)


def _recipe(config: ComparisonConfig, one: Planned) -> Recipe:
    settings = config.recipe_of(one.model, one.recipe, one.cell.store.spec.stride_s, one.cell.overrides)
    return settings.model_copy(update={"seed": one.seed})


def main(
    config: Annotated[str, typer.Argument(help="YAML: store or features, annotations, out, models, recipes ...")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.key=value over the file.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics of all runs as JSON.")] = False,
) -> None:
    """Train features x folds x models x recipes x seeds and compare them, with a report."""
    resolved = validated(CompareConfig, with_settings(read_yaml(config), settings or []), where=config)
    cells = make_cells(resolved)
    with ray_session(address):
        results = compare(resolved, cells)
    written = report(resolved.out)
    if as_json:
        print_json(results | {"report": written})
    else:
        show(results["runs"], results["oracle"], str(resolved.split))
        say(f"report: {written}")


if __name__ == "__main__":
    run(main)
