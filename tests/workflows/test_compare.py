"""Comparing on Ray: recipes, features, folds and seeds on a small problem with a known answer."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from balletal.annotations import load_split, read_annotations
from balletal.errors import InputError, SpecMismatchError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.metrics import evaluate_detections
from balletal.projection import Projection
from balletal.report.runs import read_results
from balletal.tal.config import Recipe, recipe
from balletal.tal.decoding import temper
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from balletal.tal.sequences import SequenceFile
from tests.balletal.tal.conftest import SPEC
from tests.workflows.corpus import Corpus
from workflows.cli import build
from workflows.compare import compare
from workflows.comparison_config import CompareConfig
from workflows.comparison_data import make_cells
from workflows.comparison_results import over_seeds
from workflows.config import validated

SMALL = {"optim": {"epochs": 20, "batch_size": 4, "lr": 0.01, "ema": 0.5}, "model": {"hidden": 12}}
FINE = SMALL | {"model": {"hidden": 12, "upsample": 2, "substep_dim": 12, "substep_layers": 1, "dropout": 0.0}}


def values(corpus: Corpus, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "out": str(out), "annotations": corpus.annotations, "models": ["cnn"], "recipes": ["localize"],
        "overrides": {"localize": FINE, "paper": SMALL},
    } | more  # fmt: skip


def config(corpus: Corpus, out: Path, **more: Any) -> CompareConfig:
    return validated(CompareConfig, values(corpus, out, **more), where="test")


@pytest.mark.ray
def test_compare_runs_all_pairs_on_one_split_with_one_or_two_workers(
    corpus: Corpus, tmp_path: Path, ray_cluster: None
) -> None:
    single = {"store": corpus.store, "projection": corpus.projection, "split": {"by": "published"}}
    one = config(corpus, tmp_path / "one", recipes=["paper", "localize"], **single)
    results = compare(one, make_cells(one))
    runs = results["runs"]
    assert [run["name"] for run in runs] == ["cnn-localize", "cnn-paper"]
    localize, paper = runs
    assert localize["detection"]["average_map"] > paper["detection"]["average_map"]
    # The published failure: targets in seconds, a sigmoid that stops at 1.
    assert paper["losses"]["val"]["boundary"] > 1
    table = pd.read_csv(tmp_path / "one" / "comparison.csv")
    assert list(table["run"]) == ["cnn-localize", "cnn-paper"]
    assert json.loads((tmp_path / "one" / "comparison.json").read_text()) == results
    # The same trunk; one answers at two sub-steps a feature, through layers of its own.
    assert localize["cost"]["flops_per_minute"] > paper["cost"]["flops_per_minute"] > 0
    assert table["latency_s"].gt(0).all()

    two = config(corpus, tmp_path / "two", workers=2, **single)
    (other,) = compare(two, make_cells(two))["runs"]
    losses = [run["losses"]["val"]["total"] for run in (localize, other)]
    assert losses[1] == pytest.approx(losses[0], rel=0.25)
    assert other["detection"]["average_map"] == pytest.approx(localize["detection"]["average_map"], abs=0.2)


def untempered(run: Path) -> pd.DataFrame:
    """Detections as the model scored them, before its scores' temperature was found on the fold's own videos."""
    found = pd.read_parquet(run / "detections.parquet")
    temperature = json.loads((run / "metrics.json").read_text())["temperature"]
    return found.assign(score=temper(found["score"].to_numpy(), 1 / temperature))


@pytest.mark.ray
def test_features_folds_and_seeds_are_measured_with_their_spread(
    corpus: Corpus, tmp_path: Path, ray_cluster: None
) -> None:
    out = tmp_path / "out"
    features = [
        {"name": "all", "store": corpus.store},
        {"name": "half", "store": corpus.store, "every": 2, "overrides": {"localize": {"model": {"upsample": 4}}}},
    ]
    path = tmp_path / "compare.yaml"
    more = {"features": features, "dim": 5, "seeds": [0, 1], "split": {"by": "video", "folds": 2}}
    more["ensembles"] = {"both": ["cnn-localize"]}
    path.write_text(yaml.safe_dump(values(corpus, out, **more)))
    result = CliRunner().invoke(build(), ["compare", str(path)])
    assert result.exit_code == 0, result.output
    runs = {run["name"]: run for run in json.loads((out / "comparison.json").read_text())["runs"]}
    seeds = [f"cnn-localize-seed{seed}" for seed in (0, 1)]
    assert sorted(runs) == [f"{name}-{run}" for name in ("all", "half") for run in ("both", *seeds)]

    # The folds' detections are measured at once, each video by the model that did not learn from it.
    run = runs["all-cnn-localize-seed0"]
    assert run["videos"] == 12
    folds = [out / "features" / "all" / f"fold{k}" for k in range(2)]
    held = [load_split(str(fold / "split.json")).video_ids("validation") for fold in folds]
    assert sorted(held[0] + held[1]) == sorted(f"v{i}" for i in range(12))
    found = pd.concat(untempered(fold / "runs" / run["name"]) for fold in folds)
    labels = LabelSet.load("annchor-coarse").labels
    expected = evaluate_detections(read_annotations(corpus.annotations).segments, found, labels=labels)
    assert run["detection"]["average_map"] == pytest.approx(expected["average_map"], abs=1e-9)
    assert run["detection"]["detections"] == len(found)
    for k, fold in enumerate(folds):
        metrics = json.loads((fold / "runs" / run["name"] / "metrics.json").read_text())
        assert run["folds"][k]["detection"] == metrics["detection"]
        assert metrics["features"] == "all"
        rows = sum(len(video.features) for video in FeatureStore.open(corpus.store).iter_videos(held[1 - k]))
        assert Projection.load(str(fold / "projection")).rows == rows  # fitted on the training videos alone
    curves = [pd.read_csv(folder / "runs" / run["name"] / "losses.csv") for folder in (out, *folds)]
    assert curves[0]["val_boundary"].tolist() == pytest.approx((curves[1] + curves[2])["val_boundary"].div(2).tolist())

    # The ensemble is one model a fold, made of those of both seeds that held out the same videos.
    both = runs["all-both"]
    assert (both["model"], both["recipe"], both["videos"], len(both["folds"])) == ("both", "ensemble", 12, 2)
    assert both["parameters"] == 2 * run["parameters"]
    for fold in folds:
        joined = Localizer.load(str(fold / "runs" / "all-both" / "bundle"))
        assert [one["name"] for one in joined.about["members"]] == [f"all-{seed}" for seed in seeds]
    assert (out / "report.html").read_text().count("all-both") > 1

    table = pd.read_csv(out / "summary.csv")
    assert set(table.loc[table["model"] == "both", "seeds"]) == {1}
    table = table[table["model"] == "cnn"].set_index("features")
    for name in ("all", "half"):
        two = [runs[f"{name}-cnn-localize-seed{seed}"] for seed in (0, 1)]
        maps = [run["detection"]["average_map"] for run in two]
        assert table.loc[name, "seeds"] == table.loc[name, "folds"] == 2
        assert table.loc[name, "average_map"] == pytest.approx(np.mean(maps))
        assert table.loc[name, "average_map_std"] == pytest.approx(np.std(maps, ddof=1))
        of_folds = [[fold["detection"]["average_map"] for fold in run["folds"]] for run in two]
        assert table.loc[name, "fold_std"] == pytest.approx(np.std(of_folds, axis=1, ddof=1).mean())
    # Half of the features, twice the sub-steps: as many answers from half of the encoder's work.
    assert table.loc["half", "flops_per_minute"] < table.loc["all", "flops_per_minute"]
    # One answer every 0.32 s loses little of steps of 1.2 s, one every 0.64 s more.
    oracle = pd.read_csv(out / "oracle.csv").set_index(["features", "oracle"])
    assert oracle.loc["all", "step_s"].tolist() == [0.32, 0.32]
    for kind in ("merged", "apart"):
        assert oracle.loc[("all", kind), "average_map"] > oracle.loc[("half", kind), "average_map"] > 0
    assert {run.name for run in read_results(out).runs} == set(runs)

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = CliRunner().invoke(build(), ["compare", str(path), "--json"])
    assert again.exit_code == 0, again.output
    assert {run["name"]: run for run in json.loads(again.stdout)["runs"]} == runs
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == stamps


def test_settings_are_compared_on_the_videos_that_all_have(corpus: Corpus, tmp_path: Path) -> None:
    fewer = FeatureStore.create(str(tmp_path / "fewer"), SPEC)
    for video in FeatureStore.open(corpus.store).iter_videos([f"v{i}" for i in range(10)]):
        fewer.write_unit(video.video_id, 0, 0, video.features)
    features = [{"name": "all", "store": corpus.store}, {"name": "fewer", "store": fewer.uri}]
    cells = make_cells(config(corpus, tmp_path / "out", features=features, dim=3, split={"folds": 2}))
    assert [(cell.features, cell.fold) for cell in cells] == [("all", 0), ("all", 1), ("fewer", 0), ("fewer", 1)]
    assert cells[0].split == cells[2].split
    assert sorted(cells[0].split.videos) == sorted(f"v{i}" for i in range(10))


def test_every_nth_feature_is_what_a_longer_stride_gives(corpus: Corpus, tmp_path: Path) -> None:
    full = FeatureStore.create(str(tmp_path / "store"), SPEC)
    rows = np.arange(13 * SPEC.dim, dtype=np.float32).reshape(13, -1)
    full.write_unit("v0", 0, 0, rows[:5])
    full.write_unit("v0", 2, 8, rows[8:])  # clips 5 to 7 failed
    full.write_unit("v1", 0, 0, rows)
    features = [{"name": "third", "store": full.uri, "every": 3}]
    for _ in range(2):  # made once, then found
        (cell,) = make_cells(config(corpus, tmp_path / "out", features=features, dim=1))
    assert cell.store.spec == SPEC.replace(stride=24)
    thin = cell.store.read("v0")
    np.testing.assert_array_equal(thin.features, rows[[0, 3, 9, 12]])
    np.testing.assert_allclose(thin.start_s, np.array([0, 3, 9, 12]) * 8 / 25)
    np.testing.assert_array_equal(cell.store.read("v1").features, rows[::3])


def test_a_projection_of_other_videos_or_size_is_not_taken_for_this_one(corpus: Corpus, tmp_path: Path) -> None:
    make_cells(config(corpus, tmp_path / "out", store=corpus.store, dim=3))
    with pytest.raises(InputError, match=r"another dim \(3\)"):
        make_cells(config(corpus, tmp_path / "out", store=corpus.store, dim=4))
    with pytest.raises(InputError, match="another training videos"):
        make_cells(config(corpus, tmp_path / "out", store=corpus.store, dim=3, split={"seed": 5}))


@dataclass(frozen=True)
class More:
    """What can be learnt from besides: a store with twins of the corpus's videos, other videos, a bundle."""

    store: str
    extra: dict[str, str]
    bundle: str


@pytest.fixture(scope="module")
def more(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> More:
    folder = tmp_path_factory.mktemp("more")
    stores = [FeatureStore.create(str(folder / "store"), spec) for spec in (SPEC, SPEC.replace(mirror=True))]
    for video in FeatureStore.open(corpus.store).iter_videos():
        for store in stores:
            store.write_unit(video.video_id, 0, 0, video.features)
    other = FeatureStore.create(str(folder / "other"), SPEC)
    text = Path(corpus.annotations).read_text()
    for name in ("v0", "v1"):
        other.write_unit(f"{name}-other", 0, 0, stores[0].read(name).features + 1)
        text = text.replace(f'"{name}"', f'"{name}-other"')
    (folder / "other.json").write_text(text)
    fitted, labels = Projection.load(corpus.projection), LabelSet.load("annchor-coarse")
    model = recipe("cnn", "localize").model.model_copy(update=FINE["model"])
    torch.manual_seed(3)
    localizer = Localizer(
        "old", labels, fitted, Recipe(model=model), TemporalModel(model, fitted.dim, len(labels)).eval()
    )
    localizer.save(str(folder / "bundle"))
    extra = {"store": other.uri, "annotations": str(folder / "other.json")}
    return More(stores[0].uri, extra, str(folder / "bundle"))


def test_the_projection_is_fitted_on_further_videos_too_or_is_the_bundles(
    corpus: Corpus, more: More, tmp_path: Path
) -> None:
    features = [
        {"name": "plain", "store": more.store},
        {"name": "mirrored", "store": more.store, "every": 2, "mirrored": True},
        {"name": "extra", "store": more.store, "extra": [more.extra]},
        {"name": "thin-extra", "store": more.store, "every": 2, "extra": [more.extra]},
        {"name": "init", "store": more.store, "init": {"cnn": more.bundle}},
    ]
    wanted = config(corpus, tmp_path / "out", features=features, dim=3, split={"folds": 2})
    for _ in range(2):  # made once, then found
        cells = {cell.features: cell for cell in make_cells(wanted) if cell.fold == 0}
    training = cells["plain"].split.video_ids("training")
    rows = {name: sum(len(v.features) for v in cell.store.iter_videos(training)) for name, cell in cells.items()}
    others = FeatureStore.open(more.extra["store"])
    rows["extra"] += sum(len(v.features) for v in others.iter_videos())
    rows["thin-extra"] += sum(len(v.features[::2]) for v in others.iter_videos())
    for name in ("plain", "mirrored", "extra", "thin-extra"):
        assert cells[name].projection.rows == rows[name], name
    assert cells["init"].projection.digest == Projection.load(corpus.projection).digest
    twin = FeatureStore.open(cells["mirrored"].store.uri, SPEC.replace(stride=16, mirror=True).spec_id)
    assert twin.video_ids() == cells["mirrored"].store.video_ids()
    assert [sorted(corpus.durations) for corpus in cells["thin-extra"].further] == [["v0-other", "v1-other"]]


@pytest.mark.ray
def test_what_is_learnt_besides_is_compared(corpus: Corpus, more: More, tmp_path: Path, ray_cluster: None) -> None:
    all_of_it = {"mirrored": True, "extra": [more.extra], "init": {"cnn": more.bundle}}
    features = [{"name": "all", "store": more.store} | all_of_it]
    still = {"localize": FINE | {"optim": {"epochs": 1, "batch_size": 9, "lr": 1e-12, "weight_decay": 0.0}}}
    wanted = config(corpus, tmp_path / "out", features=features, overrides=still, split={"folds": 2})
    (run,) = compare(wanted, make_cells(wanted))["runs"]
    assert (run["name"], run["videos"], len(run["folds"])) == ("all-cnn-localize", 12, 2)
    begun = Localizer.load(more.bundle)
    for k in range(2):
        fold = tmp_path / "out" / "features" / "all" / f"fold{k}"
        names = {one.video_id for one in SequenceFile(str(fold / "sequences" / "training.parquet"))}
        training = set(load_split(str(fold / "split.json")).video_ids("training")) | {"v0-other", "v1-other"}
        # The further store has no mirrored features, and is none the worse for it.
        assert names == training | {f"{name}~mirrored" for name in training if "other" not in name}
        found = Localizer.load(str(fold / "runs" / run["name"] / "bundle"))
        assert found.about["init"] == begun.digest
        torch.testing.assert_close(found.model.class_head.weight, begun.model.class_head.weight, atol=1e-6, rtol=0)


def test_what_cannot_be_learnt_besides_is_named_before_training(corpus: Corpus, more: More, tmp_path: Path) -> None:
    def cells(**setting: Any) -> None:
        features = [{"name": "a", "store": corpus.store} | setting]
        make_cells(config(corpus, tmp_path / "out", features=features, dim=3, split={"folds": 2}))

    with pytest.raises(InputError, match="expected mirrored features of a video to train on"):
        cells(mirrored=True)
    with pytest.raises(InputError, match="not held out, found 6 that are"):
        cells(extra=[{"store": corpus.store, "annotations": corpus.annotations}])
    with pytest.raises(SpecMismatchError, match=r"bundle .* has feature spec"):
        cells(every=2, init={"cnn": more.bundle})
    assert not list((tmp_path / "out").rglob("config.yaml"))  # nothing is claimed for what is refused


def test_bundles_to_begin_with_share_their_projection(corpus: Corpus, more: More, tmp_path: Path) -> None:
    old = Localizer.load(more.bundle)
    moved = replace(old, projection=replace(old.projection, mean=old.projection.mean + 1))
    moved.save(str(tmp_path / "moved"))
    init = {"cnn": more.bundle, "lstm": str(tmp_path / "moved")}
    features = [{"name": "a", "store": corpus.store, "init": init}]
    with pytest.raises(InputError, match="features a, init: expected bundles of one projection"):
        make_cells(config(corpus, tmp_path / "out", features=features, models=["cnn", "lstm"]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "name a store, or features"),
        ({"store": "s", "features": [{"name": "a", "store": "s"}]}, "name a store, or features"),
        ({"store": "s", "projection": "p", "split": {"folds": 2}}, "no folds"),
        ({"store": "s", "split": {"by": "published", "folds": 2}}, "folds are drawn"),
        ({"store": "s", "split": {"folds": 1}}, "split.folds: input should be greater"),
        ({"features": [{"name": "a", "store": "s"}, {"name": "a", "store": "t"}]}, "names of their own"),
        ({"features": [{"name": "a/b", "store": "s"}]}, "features.0.name: string should match"),
        ({"features": [{"name": "a", "store": "s", "evry": 2}]}, "features.0.evry: extra inputs"),
        ({"features": [{"name": "a", "store": "s", "extra": [{"store": "t"}]}]}, "extra.0.annotations: field required"),
        ({"features": [{"name": "a", "store": "s", "init": {"lstm": "b"}}]}, "init: lstm is not compared"),
        ({"store": "s", "overrides": {"localise": {}}}, "localise is no recipe"),
        ({"store": "s", "overrides": {"localize": {"optim": {"epochz": 3}}}}, r"cnn-localize: .*optim\.epochz: extra"),
        (
            {"features": [{"name": "a", "store": "s", "overrides": {"localize": {"model": {"upsample": 0}}}}]},
            r"cnn-localize: .*model\.upsample: input should be greater",
        ),
        (
            {"store": "s", "overrides": {"localize": {"decode": {"window": 1, "context": 4}}}},
            r"decode\.window: expected at least",
        ),
        ({"store": "s", "seeds": [0, 1, 0]}, "seeds should be named once each"),
        ({"store": "s", "models": ["cnn", "cnn"]}, "models should be named once each"),
        ({"store": "s", "seeds": [0, -1]}, r"seeds\.1: input should be greater than or equal to 0"),
        ({"store": "s", "models": ["transformer"], "recipes": ["paper"]}, "nothing to train"),
    ],
)
def test_wrong_configurations_are_named(corpus: Corpus, tmp_path: Path, more: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(corpus, tmp_path, **more)


def test_ensembles_that_do_not_fit_are_named_before_training(corpus: Corpus, tmp_path: Path) -> None:
    unlike = {"lstm-localize": {"model": {"upsample": 5}}}
    more = {"store": corpus.store, "models": ["cnn", "lstm"], "recipes": ["localize", "paper"], "dim": 4}
    for members, message in (
        (
            ["cnn-localize", "lstm-localize"],
            "ensemble both, lstm-localize: expected upsample 2, levels 1, found upsample",
        ),
        (["cnn-localize", "cnn-paper"], "ensemble both, cnn-paper: expected distances as boundaries, found fractions"),
    ):
        with pytest.raises(InputError, match=message):
            config(corpus, tmp_path, **more, overrides=unlike, ensembles={"both": members})


def test_more_folds_than_videos_are_named_before_training(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 to 12, the videos"):
        make_cells(config(corpus, tmp_path / "folds", store=corpus.store, split={"folds": 13}))


def test_one_seed_has_no_spread() -> None:
    row = {"features": "", "model": "cnn", "recipe": "paper", "seed": 0, "average_map": 0.5, "parameters": 7}
    (only,) = over_seeds(pd.DataFrame([row | {"folds": float("nan")}])).to_dict("records")
    assert only["seeds"] == 1
    assert only["average_map"] == 0.5
    assert np.isnan(only["average_map_std"])
