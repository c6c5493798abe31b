"""Joining finished runs by the command: measured like a run, refused where they do not belong together."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from balletal.annotations import load_split, read_annotations
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import Projection
from balletal.tal.config import ModelName
from balletal.tal.localizer import Localizer
from tests.workflows.corpus import Corpus
from workflows.cli import build
from workflows.train import prepare, resolve_recipe, train

SMALL = ("optim.epochs=6", "model.hidden=8", "model.upsample=2", "model.substep_dim=8", "model.substep_layers=1")


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(build(), [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small runs of one split."""
    folder = tmp_path_factory.mktemp("runs")
    store, fitted = FeatureStore.open(corpus.store), Projection.load(corpus.projection)
    labels = LabelSet.load("annchor-coarse")
    for model in ("cnn", "lstm"):
        out = str(folder / model)
        settings = resolve_recipe(cast(ModelName, model), "localize", store.spec, settings=list(SMALL))
        prepare(store, fitted, read_annotations(corpus.annotations, labels), labels, load_split(corpus.split), out)
        named = {"name": f"{model}-localize", "recipe_name": "localize"}
        train(store, fitted, labels, settings, prepared=out, out=out, alone=True, **named)
    return [folder / "cnn", folder / "lstm"]


def test_runs_become_one_bundle_that_is_measured(corpus: Corpus, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "both"
    for _ in range(2):  # made once, then found
        result = command("ensemble", *runs, "--store", corpus.store, "--out", out, "--name", "both", "--json")
        assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert json.loads(result.stdout) == metrics
    assert metrics["members"] == ["cnn-localize", "lstm-localize"]
    each = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert metrics["parameters"] == sum(one["parameters"] for one in each)
    assert metrics["videos"] == each[0]["videos"]
    assert (out / "ground_truth.json").read_text() == (runs[0] / "ground_truth.json").read_text()
    bundle = Localizer.load(str(out / "bundle"))
    assert [recipe.model.name for recipe in bundle.members] == ["cnn", "lstm"]
    assert bundle.about["validation"]["average_map"] == metrics["detection"]["average_map"]
    report = command("report", out)
    assert report.exit_code == 0, report.output


def test_another_member_of_the_same_name_is_another_ensemble(corpus: Corpus, runs: list[Path], tmp_path: Path) -> None:
    """Runs of several seeds have one name."""
    same = []
    for temperature in (2.0, 3.0):
        shutil.copytree(runs[0], tmp_path / str(temperature))
        shutil.rmtree(tmp_path / str(temperature) / "bundle")
        other = Localizer.load(str(runs[0] / "bundle")).with_temperature(temperature)
        other.save(str(tmp_path / str(temperature) / "bundle"))
        same.append(tmp_path / str(temperature))
    where = ("--store", corpus.store, "--out", tmp_path / "out")
    assert command("ensemble", runs[0], same[1], *where).exit_code == 0
    result = command("ensemble", same[0], same[1], *where)
    assert result.exit_code == 1
    assert "members" in str(result.exception)


def test_runs_that_do_not_belong_together_are_refused(corpus: Corpus, runs: list[Path], tmp_path: Path) -> None:
    unfinished, elsewhere = tmp_path / "unfinished", tmp_path / "elsewhere"
    for copy in (unfinished, elsewhere):
        shutil.copytree(runs[1], copy)
    (unfinished / "metrics.json").unlink()
    split = json.loads((elsewhere / "split.json").read_text())
    split["videos"] = dict(zip(split["videos"], reversed(split["videos"].values()), strict=True))
    (elsewhere / "split.json").write_text(json.dumps(split))
    for other, said in ((unfinished, "no metrics.json"), (elsewhere, f"the split of {runs[0]}")):
        result = command("ensemble", runs[0], other, "--store", corpus.store, "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert said in str(result.exception)
    assert not (tmp_path / "out").exists()
