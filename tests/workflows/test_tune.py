"""Searching a recipe's values on Ray Tune: spaces, a study, its resume, trials that fail."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from balletal.errors import InputError
from balletal.tal.config import Recipe, recipe
from tests.balletal.tal.conftest import SPEC
from tests.workflows.corpus import Corpus
from workflows.cli import build
from workflows.comparison_config import CompareConfig
from workflows.config import read_yaml, validated
from workflows.train import resolve_recipe
from workflows.tune import Study, TuneConfig, tune
from workflows.tune_space import Domain, check_space, draw

ROOT = Path(__file__).resolve().parents[2]
SPACE = {"optim.lr": {"loguniform": [0.001, 0.03]}, "model.upsample": {"choice": [1, 2]}}
SMALL = {
    "optim": {"epochs": 8, "batch_size": 3, "ema": 0.5, "warmup_epochs": 0},
    "model": {"hidden": 12, "substep_dim": 12, "substep_layers": 1},
}


def values(corpus: Corpus, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "out": str(out), "store": corpus.store, "projection": corpus.projection, "annotations": corpus.annotations,
        "split": {"by": "published"}, "model": "cnn", "overrides": SMALL, "space": SPACE, "trials": 4,
        "report_epochs": 2, "grace_epochs": 2, "cpus": 0.5,
    } | more  # fmt: skip


def config(corpus: Corpus, out: Path, **more: Any) -> TuneConfig:
    return validated(TuneConfig, values(corpus, out, **more), where="test")


def reports(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "reports.json").read_text())


@pytest.mark.ray
def test_a_study_leaves_a_table_a_recipe_and_a_figure_and_goes_on_when_given_more(
    corpus: Corpus, tmp_path: Path, ray_cluster: None
) -> None:
    out, path = tmp_path / "out", tmp_path / "tune.yaml"
    path.write_text(yaml.safe_dump(values(corpus, out)))
    result = CliRunner().invoke(build(), ["tune", str(path), "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    table = pd.read_csv(out / "trials.csv")
    assert sorted(table["trial"]) == [0, 1, 2, 3]
    assert set(table["status"]) <= {"finished", "stopped"}
    assert (table["status"] == "finished").any()
    assert table["average_map"].is_monotonic_decreasing
    assert table["epochs"].between(2, 8).all()
    assert table["optim.lr"].between(0.001, 0.03).all()
    assert summary["best"]["average_map"] == table["average_map"][0] > 0
    # What train makes of best.yaml is the best trial's recipe.
    best = resolve_recipe("cnn", "localize", SPEC, config=str(out / "best.yaml"))
    _, drawn = draw(config(corpus, out).space, config(corpus, out).base(SPEC.stride_s), 0, summary["best"]["trial"])
    assert best == drawn
    assert "best so far" in (out / "study.svg").read_text()
    assert not list((out / "states").glob("*.pt"))

    before = (out / "reports.json").stat().st_mtime_ns
    again = CliRunner().invoke(build(), ["tune", str(path), "--json"])
    assert json.loads(again.stdout) == summary
    assert (out / "reports.json").stat().st_mtime_ns == before
    first = reports(out)
    more = CliRunner().invoke(build(), ["tune", str(path), "--json", "--set", "trials=5"])
    assert json.loads(more.stdout)["trials"] == 5
    assert reports(out)[: len(first)] == first
    assert {report["trial"] for report in reports(out)[len(first) :]} == {4}
    with pytest.raises(InputError, match="another seed"):
        CliRunner().invoke(build(), ["tune", str(path), "--set", "seed=1"], catch_exceptions=False)


@pytest.mark.ray
def test_a_killed_study_goes_on_with_the_states_and_rungs_that_it_had(
    corpus: Corpus, tmp_path: Path, ray_cluster: None
) -> None:
    """kill -9 of the driver and its Ray amid the trials; what the rest gives is what an unbroken study gives."""
    out, path = tmp_path / "out", tmp_path / "tune.yaml"
    # One trial at a time and nothing to stop: the reports do not depend on who was faster.
    more = {"trials": 2, "report_epochs": 1, "grace_epochs": 40, "cpus": 2}
    more["overrides"] = SMALL | {"optim": SMALL["optim"] | {"epochs": 40}}
    path.write_text(yaml.safe_dump(values(corpus, out, **more)))
    command = [sys.executable, "-m", "workflows.tune", str(path)]
    environment = os.environ | {"HOME": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while not (out / "reports.json").exists() or len(reports(out)) < 3:
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = reports(out)
    assert len(before) < 80
    resumed = tune(config(corpus, out, **more))
    assert resumed["ended"] == 2
    assert reports(out)[: len(before)] == before
    epochs = [[r["epoch"] for r in reports(out) if r["trial"] == trial] for trial in (0, 1)]
    assert epochs == [list(range(1, 41))] * 2

    tune(config(corpus, tmp_path / "unbroken", **more))
    kept = [[(r["trial"], r["epoch"], r["average_map"]) for r in reports(o)] for o in (out, tmp_path / "unbroken")]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_are_told_of_can_be_made_again(path: Path) -> None:
    told = read_yaml(str(path))
    if "space" not in told:
        validated(CompareConfig, told, where=path.name)
        return
    study = validated(TuneConfig, told, where=path.name)
    check_space(study.space, study.base(), study.seed, study.trials)


@pytest.mark.ray
def test_a_diverging_trial_and_a_spent_budget(corpus: Corpus, tmp_path: Path, ray_cluster: None) -> None:
    wild = {"optim.lr": {"choice": [1e30, 0.01]}}
    small = SMALL | {"model": SMALL["model"] | {"upsample": 2}}
    study = config(corpus, tmp_path / "wild", space=wild, overrides=small, grace_epochs=8, seed=1)
    lrs = [draw(study.space, study.base(), 1, trial)[0]["optim.lr"] for trial in range(4)]
    assert set(lrs) == {1e30, 0.01}
    assert tune(study)["best"]["optim.lr"] == 0.01
    table = pd.read_csv(tmp_path / "wild" / "trials.csv").sort_values("trial")
    assert list(table["status"]) == ["diverged" if lr > 1 else "finished" for lr in lrs]

    short = config(corpus, tmp_path / "short", seconds=1e-3, cpus=2)
    (only,) = reports(tmp_path / "short") if tune(short) else ()
    assert (only["trial"], only["epoch"], only["ended"]) == (0, 2, "")
    assert list(pd.read_csv(tmp_path / "short" / "trials.csv")["status"]) == ["unfinished"]
    assert tune(short)["trials"] == 1  # spent: nothing more


def test_asha_is_given_back_what_it_saw(corpus: Corpus, tmp_path: Path) -> None:
    study = config(corpus, tmp_path, reduction=2)
    seen = [
        {"trial": trial, "epoch": 2, "average_map": found, "seconds": 1.0, "ended": ""}
        for trial, found in enumerate([0.2, 0.4, 0.6])
    ]
    (tmp_path / "reports.json").write_text(json.dumps(seen))
    rungs = dict(Study(study, epochs=8)._brackets[0]._rungs)
    assert rungs[2] == {"0": 0.2, "1": 0.4, "2": 0.6}
    progress = Study(study, epochs=8).progress()
    assert progress.to_dict("list") == {"seconds": [1.0, 2.0, 3.0], "best": [0.2, 0.4, 0.6]}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"space": {"optim.lrr": {"uniform": [0.1, 1]}}}, r"space: optim\.lrr: .*lrr: extra inputs"),
        ({"space": {"model.dropout": {"uniform": [0.1, 1.5]}}}, r"space: model\.dropout: .*less than 1"),
        ({"space": {"model.upsample": {"choice": [1, "two"]}}}, r"space: model\.upsample: .*valid integer"),
        ({"space": {"optim.epochs": {"integer": [1, 5]}}}, r"space: optim\.epochs: expected a value that a study may"),
        ({"space": {"optim.lr": {"unifrom": [0, 1]}}}, r"space\.optim\.lr\.unifrom: extra inputs"),
        ({"space": {"optim.lr": {}}}, "name one of uniform"),
        ({"space": {"optim.lr": {"uniform": [1, 0.5]}}}, "the lower end comes first"),
        ({"space": {"optim.lr": {"loguniform": [0, 0.5]}}}, "loguniform begins above 0"),
        ({"space": {}}, "space: dictionary should have at least 1"),
        ({"space": {"optim.clip_norm": {"uniform": [1, math.inf]}}}, r"clip_norm: .*finite number"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0"),
        ({"cpus": math.inf}, "cpus: .*finite number"),
        ({"seconds": math.inf}, "seconds: .*finite number"),
        ({"split": {"folds": 3}}, "one split"),
        ({"overrides": {"optim": {"lrr": 1}}}, r"overrides: .*optim\.lrr: extra inputs"),
    ],
)
def test_wrong_spaces_are_named(corpus: Corpus, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tune(config(corpus, tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "space", "message"),
    [
        ("transformer", {"model.heads": Domain(choice=[4, 5])}, "multiples of heads, 5"),
        ("transformer", {"decode.window": Domain(choice=[64])}, "decode.window: expected at least"),
        ("cnn", {"model.upsample": Domain(uniform=(1, 8))}, "model.upsample"),
    ],
)
def test_trials_that_could_not_be_run_are_told_before_the_first(model, space, message) -> None:
    with pytest.raises(InputError, match=message):
        check_space(space, recipe(model, "localize"), seed=0, trials=5)


def test_draws_lie_in_their_domains_and_depend_on_seed_and_trial_alone() -> None:
    space = {
        "optim.lr": Domain(loguniform=(1e-4, 1e-2)),
        "model.dropout": Domain(uniform=(0.1, 0.2)),
        "model.layers": Domain(integer=(1, 3)),
        "decode.nms": Domain(choice=["hard", "linear"]),
    }
    base = recipe("cnn", "localize")
    check_space(space, base, seed=0, trials=5)
    drawn = [draw(space, base, 0, trial) for trial in range(200)]
    lrs = np.array([values["optim.lr"] for values, _ in drawn])
    assert ((lrs >= 1e-4) & (lrs <= 1e-2)).all()
    assert 0.4 < (lrs < 1e-3).mean() < 0.6  # even in the logarithm
    assert {values["model.layers"] for values, _ in drawn} == {1, 2, 3}
    assert {values["decode.nms"] for values, _ in drawn} == {"hard", "linear"}
    assert all(0.1 <= values["model.dropout"] <= 0.2 for values, _ in drawn)
    values, settings = draw(space, base, 0, 17)
    assert (values, settings) == drawn[17]
    assert settings == Recipe.model_validate(
        base.model_dump()
        | {
            "optim": base.optim.model_dump() | {"lr": values["optim.lr"]},
            "model": base.model.model_dump() | {"dropout": values["model.dropout"], "layers": values["model.layers"]},
            "decode": base.decode.model_dump() | {"nms": values["decode.nms"]},
        }
    )
    assert draw(space, base, 1, 17)[0] != values
    alone, _ = draw({"optim.lr": space["optim.lr"]}, base, 0, 17)
    assert alone == {"optim.lr": values["optim.lr"]}
