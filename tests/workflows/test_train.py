"""Training on Ray, on a small problem with a known answer."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

import schemas
from balletal.annotations import (
    load_split,
    read_annotations,
    write_csv,
)
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError, SpecMismatchError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import Projection
from balletal.tal.config import Recipe
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from balletal.tal.sequences import SequenceFile
from schemas import arrow
from tests.balletal.tal.conftest import SPEC, make_sequences
from tests.workflows.corpus import Corpus, write_corpus
from workflows.cli import build
from workflows.train import prepare, resolve_recipe, train

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "optim.epochs=20", "optim.batch_size=3", "optim.lr=0.01", "optim.ema=0.5", "model.hidden=12",
    "model.upsample=2", "model.substep_dim=12", "model.substep_layers=1",
]  # fmt: skip


def arguments(corpus: Corpus, out: Path, *more: str) -> list[str]:
    command = ["train", "--store", corpus.store, "--projection", corpus.projection, "--out", str(out)]
    command += ["--annotations", corpus.annotations, "--split", corpus.split, "--model", "cnn", "--json"]
    return [*command, *(word for setting in SMALL for word in ("--set", setting)), *more]


@pytest.mark.ray
def test_a_run_leaves_a_bundle_curves_and_metrics_and_is_not_repeated(
    corpus: Corpus, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(build(), arguments(corpus, Path("run")))
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert metrics["videos"] == 3
    assert metrics["detection"]["tiou"] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert metrics["frames"]["foreground_accuracy"] > 0.6
    rows = list(csv.DictReader((out / "losses.csv").open()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 21))
    assert float(rows[-1]["train_total"]) < float(rows[0]["train_total"])
    assert list((out / "tensorboard").glob("events*"))
    bundle = Localizer.load(str(out / "bundle"))
    video = FeatureStore.open(corpus.store).read("v9")
    table = pd.read_parquet(out / "detections.parquet")
    assert set(table["bundle"]) == {bundle.digest}
    found = bundle.localize(
        video, duration=json.loads(Path(corpus.annotations).read_text())["database"]["v9"]["duration"]
    )
    written = table[table["video_id"] == "v9"].reset_index(drop=True)
    assert np.allclose(found[["start", "end", "score"]], written[["start", "end", "score"]], atol=1e-6)

    # Another run begins where this one ended: at no learning rate, and with no average of others, it stays there.
    still = ["--set", "optim.lr=1e-12", "--set", "optim.weight_decay=0", "--set", "optim.epochs=1"]
    begun = arguments(corpus, tmp_path / "begun", *still, "--init", str(out / "bundle"))
    del begun[begun.index("--projection") : begun.index("--projection") + 2]
    result = CliRunner().invoke(build(), begun)
    assert result.exit_code == 0, result.output
    assert "begins with bundle cnn-localize" in result.stderr
    weights = Localizer.load(str(tmp_path / "begun" / "bundle")).model.named_parameters()
    for name, weight in weights:
        torch.testing.assert_close(weight, bundle.model.get_parameter(name), atol=1e-6, rtol=0, msg=name)

    stamp = (out / "bundle" / "model.safetensors").stat().st_mtime_ns
    again = CliRunner().invoke(build(), arguments(corpus, out))
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == metrics
    assert (out / "bundle" / "model.safetensors").stat().st_mtime_ns == stamp

    truth = (out / "ground_truth.json").read_bytes()
    other = tmp_path / "other-split.json"
    text = json.loads(Path(corpus.split).read_text())
    text["videos"]["v0"], text["videos"]["v9"] = "validation", "training"
    other.write_text(json.dumps(text))
    changed = arguments(corpus, out)
    changed[changed.index("--split") + 1] = str(other)
    with pytest.raises(InputError, match="another videos, durations and segments"):
        CliRunner().invoke(build(), changed, catch_exceptions=False)
    assert (out / "ground_truth.json").read_bytes() == truth
    with pytest.raises(InputError, match="another recipe"):
        CliRunner().invoke(build(), arguments(corpus, out, "--set", "optim.ema=0.6"), catch_exceptions=False)


@pytest.mark.ray
def test_a_killed_run_resumes_where_it_was(corpus: Corpus, tmp_path: Path) -> None:
    """kill -9 of a worker: the run goes on. Then of the driver and its Ray: the same command does the rest."""
    out = tmp_path / "run"
    longer = ["--set", "optim.epochs=400", "--set", "optim.checkpoint_epochs=1"]
    command = [sys.executable, "-m", "workflows.train", *arguments(corpus, out, *longer)[1:]]
    environment = os.environ | {"HOME": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        # A checkpoint counts once Ray Train has noted it: on a busy machine seconds after it was written.
        noted = out / "checkpoints" / "checkpoint_manager_snapshot.json"
        while not (noted.exists() and "checkpoint_2" in noted.read_text()) and time.monotonic() < deadline:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.1)
        os.kill(_train_worker(tmp_path), signal.SIGKILL)
        killed = time.time()
        while (out / "losses.csv").stat().st_mtime < killed + 1 and time.monotonic() < deadline:
            assert process.poll() is None, "a killed worker ended the run"
            time.sleep(0.1)
        epochs = [int(row["epoch"]) for row in csv.DictReader((out / "losses.csv").open())]
        assert epochs == list(range(1, len(epochs) + 1))
        _train_worker(tmp_path)  # a new one
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = (out / "losses.csv").read_text().splitlines()
    done = len(before) - 1
    assert 0 < done < 400
    assert not (out / "metrics.json").exists()
    _shorten(out, done + 3)
    shorter = ["--set", f"optim.epochs={done + 3}"]
    finished = subprocess.run(
        [*command, *shorter], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    epochs = [int(row["epoch"]) for row in csv.DictReader((out / "losses.csv").open())]
    assert epochs == list(range(1, done + 4))
    # Seconds differ when an epoch is trained again: rows that are the same to the letter were not.
    kept = sum(a == b for a, b in zip(before[1:], (out / "losses.csv").read_text().splitlines()[1:], strict=False))
    assert kept >= 1
    assert kept >= done - 3
    assert Localizer.load(str(out / "bundle")).recipe.optim.epochs == done + 3


def _train_worker(home: Path) -> int:
    """The process of the Ray Train worker whose environment has this HOME."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker") and (
                f"HOME={home}\0".encode() in (process / "environ").read_bytes()
            ):
                return int(process.name)
        except OSError:  # it ended meanwhile
            continue
    raise AssertionError("no training worker runs")


def _shorten(out: Path, epochs: int) -> None:
    """Let the interrupted run end soon: its recorded configuration says fewer epochs."""
    config = yaml.safe_load((out / "config.yaml").read_text())
    config["recipe"]["optim"]["epochs"] = epochs
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def test_annotations_without_durations_take_them_from_the_features(corpus: Corpus, tmp_path: Path) -> None:
    labels = LabelSet.load("annchor-coarse")
    known = read_annotations(corpus.annotations, labels)
    write_csv(str(tmp_path / "gt.csv"), known)
    store = FeatureStore.open(corpus.store)
    bare = read_annotations(str(tmp_path / "gt.csv"), labels)
    prepare(store, Projection.load(corpus.projection), bare, labels, load_split(corpus.split), str(tmp_path / "run"))
    written = read_annotations(str(tmp_path / "run" / "ground_truth.json"), labels)
    assert sorted(written.durations) == ["v10", "v11", "v9"]
    for video_id, duration in written.durations.items():
        assert duration == pytest.approx(store.read(video_id).end_s[-1])
    (rows,) = [s for s in SequenceFile(str(tmp_path / "run" / "sequences" / "training.parquet")) if s.video_id == "v3"]
    mine = known.segments[known.segments["video_id"] == "v3"]
    np.testing.assert_allclose(rows.segments, mine[["start", "end"]])


def test_tags_are_learnt_measured_and_told(tmp_path: Path) -> None:
    """From annotations to detections: the label set has a tag, the features show it."""
    corpus, labels = write_corpus(tmp_path / "corpus", label_set="annchor-fine"), LabelSet.load("annchor-fine")
    store, projection = FeatureStore.open(corpus.store), Projection.load(corpus.projection)
    annotated, out = read_annotations(corpus.annotations, labels), str(tmp_path / "run")
    prepare(store, projection, annotated, labels, load_split(corpus.split), out)
    read = {s.video_id: s.tags for s in SequenceFile(f"{out}/sequences/training.parquet")}
    made = {s.video_id: s.tags for s in make_sequences(12, tags=1)[:9]}
    assert read.keys() == made.keys()
    assert all(np.array_equal(read[video], made[video]) for video in made)

    settings = resolve_recipe(
        "cnn", "localize", store.spec, settings=[*SMALL, "model.dropout=0", "model.input_dropout=0"]
    )
    how = {"name": "t", "recipe_name": "localize", "alone": True}
    metrics = train(store, projection, labels, settings, out, out, **how)
    jsonschema.validate(metrics, schemas.json_schema("metrics"))
    assert metrics["tags"]["tags"]["Backwards"]["f1"] > 0.8
    assert "train_tag" in (tmp_path / "run" / "losses.csv").read_text()
    bundle = Localizer.load(f"{out}/bundle")
    assert bundle.tags == ("Backwards",)
    table = pq.read_table(f"{out}/detections.parquet")
    assert table.schema.equals(arrow.TAGGED_DETECTIONS)
    written = read_annotations(f"{out}/detections.json", labels).segments
    assert sorted(map(tuple, written["tags"])) == sorted(map(tuple, table["tags"].to_pylist()))
    assert set(map(tuple, written["tags"])) == {(), ("Backwards",)}

    other = annotated.tags.iloc[1:]
    with pytest.raises(InputError, match="another videos, durations and segments"):
        prepare(store, projection, replace(annotated, tags=other), labels, load_split(corpus.split), out)


def test_videos_that_hold_no_feature_are_named(corpus: Corpus, tmp_path: Path) -> None:
    labels, fitted, out = LabelSet.load("annchor-coarse"), Projection.load(corpus.projection), str(tmp_path / "run")
    known, split = read_annotations(corpus.annotations, labels), load_split(corpus.split)
    store = FeatureStore.create(str(tmp_path / "store"), SPEC)
    for video_id in split.videos:
        store.write_unit(video_id, 0, 0, np.zeros((0, 6)))
    with pytest.raises(InputError, match=r"training subset: .*found 9 videos that hold no feature"):
        prepare(store, fitted, known, labels, split, out)
    store.write_unit("v1", 0, 0, np.ones((3, 6)))
    with pytest.raises(InputError, match=r"validation subset: .*found 3 videos that hold no feature"):
        prepare(store, fitted, known, labels, split, out)
    store.write_unit("v9", 0, 0, np.ones((3, 6)))
    bare = replace(known, videos=known.videos.assign(duration=np.nan))
    with pytest.raises(InputError, match="video v0: expected a duration or features to tell it, found neither"):
        prepare(store, fitted, bare, labels, split, out)
    assert not (tmp_path / "run").exists()


def test_steps_behind_the_features_are_told(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, fitted = LabelSet.load("annchor-coarse"), Projection.load(corpus.projection)
    known, split, store = (
        read_annotations(corpus.annotations, labels),
        load_split(corpus.split),
        FeatureStore.open(corpus.store),
    )
    prepare(store, fitted, known, labels, split, str(tmp_path / "all"))
    assert "after the last feature" not in capsys.readouterr().err
    end = store.read("v3").end_s[-1]
    late = known.segments["video_id"] == "v3"
    moved = known.segments.assign(start=known.segments["start"] + end * late, end=known.segments["end"] + end * late)
    longer = known.videos.assign(duration=known.videos["duration"] + 2 * end * (known.videos["video_id"] == "v3"))
    prepare(store, fitted, replace(known, segments=moved, videos=longer), labels, split, str(tmp_path / "some"))
    told = capsys.readouterr().err
    assert f"training: {late.sum()} steps begin after the last feature of their video" in told
    assert "validation:" not in told


def test_features_of_another_spec_are_refused_with_both_named(corpus: Corpus, tmp_path: Path) -> None:
    other: FeatureSpec = SPEC.replace(stride=4)
    FeatureStore.create(str(tmp_path / "store"), other).write_unit("v0", 0, 0, np.zeros((3, 6)))
    command = arguments(corpus, tmp_path / "run")
    command[command.index("--store") + 1] = str(tmp_path / "store")
    with pytest.raises(SpecMismatchError) as error:
        CliRunner().invoke(build(), command, catch_exceptions=False)
    assert SPEC.spec_id in str(error.value)
    assert other.spec_id in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "optim.epochz=3"), r"epochz: extra inputs"),
        (("--set", "nonsense"), r"expected key\.key=value"),
        (("--set", "optim.lr=[1"), "--set .* expected a YAML value"),
        (("--set", "loss.center_radius=.inf"), r"center_radius: input should be a finite number"),
        (("--set", "decode.window=1", "--set", "decode.context=4"), r"decode\.window: expected at least"),
        (("--seed", "-1"), "seed: input should be greater than or equal to 0"),
        (("--seed", str(2**70)), "seed: input should be less than"),
        (("--labels", "annchor-none"), "annchor-none.*expected one of annchor-coarse, annchor-fine"),
    ],
)
def test_wrong_options_are_named(corpus: Corpus, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(build(), arguments(corpus, tmp_path / "run", *more), catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def tiny_recipe(**model: Any) -> Recipe:
    """One epoch that changes nothing."""
    sizes = {"name": "cnn", "hidden": 8, "layers": 1, "upsample": 2, "substep_dim": 8, "substep_layers": 1}
    optim = {"epochs": 1, "batch_size": 9, "lr": 1e-12, "weight_decay": 0.0}
    return Recipe.model_validate({"model": sizes | model, "optim": optim})


class TestInit:
    """Beginning with the weights of another bundle; without Ray."""

    @pytest.fixture
    def labels(self) -> LabelSet:
        return LabelSet.load("annchor-coarse")

    @pytest.fixture
    def ready(self, corpus: Corpus, labels: LabelSet, tmp_path: Path) -> str:
        store, fitted = FeatureStore.open(corpus.store), Projection.load(corpus.projection)
        known = read_annotations(corpus.annotations, labels)
        prepare(store, fitted, known, labels, load_split(corpus.split), str(tmp_path / "ready"))
        return str(tmp_path / "ready")

    def begin(self, corpus: Corpus, labels: LabelSet, ready: str, out: Path, **more: Any) -> Localizer:
        options = {"settings": tiny_recipe(), "projection": Projection.load(corpus.projection)} | more
        options |= {"name": "begun", "recipe_name": "localize", "alone": True}
        train(FeatureStore.open(corpus.store), labels=labels, prepared=ready, out=str(out), **options)
        return Localizer.load(str(out / "bundle"))

    def test_what_fits_is_copied_and_the_rest_is_named(
        self, corpus: Corpus, labels: LabelSet, ready: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe, fitted = tiny_recipe(), Projection.load(corpus.projection)
        torch.manual_seed(5)
        other = LabelSet("three", ("a", "b", "c"))
        bundle = Localizer("three", other, fitted, recipe, TemporalModel(recipe.model, fitted.dim, 3))
        found = self.begin(corpus, labels, ready, tmp_path / "run", init=bundle)
        said = capsys.readouterr().err
        assert "digest " + bundle.digest[:12] in said
        assert "new: class_head.weight, class_head.bias" in " ".join(said.split())
        theirs = dict(bundle.model.named_parameters())
        for name, weight in found.model.named_parameters():
            if not name.startswith("class_head"):
                torch.testing.assert_close(weight, theirs[name], atol=1e-6, rtol=0, msg=name)
        assert found.about["init"] == bundle.digest
        with pytest.raises(InputError, match="another init"):
            self.begin(corpus, labels, ready, tmp_path / "run")

    def test_a_checkpoint_wins(self, corpus: Corpus, labels: LabelSet, ready: str, tmp_path: Path) -> None:
        bundle = self.begin(corpus, labels, ready, tmp_path / "first")
        once = self.begin(corpus, labels, ready, tmp_path / "run", init=bundle)
        state = tmp_path / "run" / "checkpoints" / "state.pt"
        kept = torch.load(state, weights_only=True)
        kept["averaged"]["module.class_head.bias"] += 1
        torch.save(kept, state)
        (tmp_path / "run" / "metrics.json").unlink()
        again = self.begin(corpus, labels, ready, tmp_path / "run", init=bundle)
        torch.testing.assert_close(again.model.class_head.bias, once.model.class_head.bias + 1)

    def test_other_encoders_and_projections_are_refused(
        self, corpus: Corpus, labels: LabelSet, ready: str, tmp_path: Path
    ) -> None:
        bundle = self.begin(corpus, labels, ready, tmp_path / "first")
        with pytest.raises(InputError, match="expected the encoder of a cnn, hidden 9, found that of a cnn, hidden 8"):
            self.begin(corpus, labels, ready, tmp_path / "run", init=bundle, settings=tiny_recipe(hidden=9))
        with pytest.raises(InputError, match="expected the encoder of a lstm"):
            self.begin(corpus, labels, ready, tmp_path / "run", init=bundle, settings=tiny_recipe(name="lstm"))
        fitted = Projection.load(corpus.projection)
        replace(fitted, mean=fitted.mean + 1).save(str(tmp_path / "projection"))
        command = arguments(corpus, tmp_path / "run", "--init", str(tmp_path / "first" / "bundle"))
        command[command.index("--projection") + 1] = str(tmp_path / "projection")
        with pytest.raises(InputError, match="expected that of bundle begun to begin with"):
            CliRunner().invoke(build(), command, catch_exceptions=False)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("without", "more", "message"),
    [
        ("--projection", (), "or --init"),
        (None, ("--extra-store", "s"), "name one for each --extra-store"),
        (None, ("--extra-annotations", "a"), "name one for each --extra-store"),
    ],
)
def test_what_belongs_together_is_named_together(
    corpus: Corpus, tmp_path: Path, without: str | None, more: tuple[str, ...], message: str
) -> None:
    command = arguments(corpus, tmp_path / "run", *more)
    if without:
        del command[command.index(without) : command.index(without) + 2]
    result = CliRunner().invoke(build(), command)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_an_unknown_model_is_a_usage_error(corpus: Corpus, tmp_path: Path) -> None:
    result = CliRunner().invoke(build(), arguments(corpus, tmp_path / "run", "--model", "gru"))
    assert result.exit_code == 2
    assert "'gru'" in result.output
