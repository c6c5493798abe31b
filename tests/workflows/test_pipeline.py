"""One file, everything: released features through projection, models, comparison and report."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from balletal.annotations import Annotations, load_split, video_table, write_activitynet
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.segments import segment_table
from workflows.cli import build
from workflows.config import read_yaml, validated, with_settings
from workflows.pipeline import PipelineConfig

CONFIGS = Path(__file__).resolve().parents[2] / "workflows" / "configs"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Fourteen videos of released features that say plainly where the steps are, and a configuration."""
    random = np.random.default_rng(0)
    labels = LabelSet.load("annchor-coarse").labels[:2]
    folder, rows, videos = tmp_path / "npy", [], {}
    folder.mkdir()
    for v in range(14):
        features = random.normal(0, 0.2, (12, 20))
        for clip in range(1, 11, 3):
            label = int(random.integers(2))
            features[clip, label] += 4
            rows.append((f"v{v:02d}", clip * 2.56 + 0.5, clip * 2.56 + 2.1, labels[label]))
        np.save(folder / f"v{v:02d}.npy", features)
        videos[f"v{v:02d}"] = {"duration": 31.0, "fps": 25.0, "subset": None}
    columns = [list(column) for column in zip(*rows, strict=True)]
    write_activitynet(str(tmp_path / "gt.json"), Annotations(segment_table(*columns), video_table(videos)))
    small = {"hidden": 12, "upsample": 4, "substep_dim": 12, "substep_layers": 1}
    values = {
        "out": str(tmp_path / "out"),
        "annotations": str(tmp_path / "gt.json"),
        "features": {"released": str(folder), "window": 64, "stride": 64, "dim": 20},
        "projection": {"dim": 6, "workers": 1},
        "models": ["cnn"],
        "overrides": {
            "localize": {"model": small, "optim": {"epochs": 25, "batch_size": 4, "lr": 0.01, "ema": 0.5}},
            "paper": {"model": {"hidden": 12}, "optim": {"epochs": 2, "batch_size": 4}},
        },
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.ray
def test_a_pipeline_runs_to_the_report_and_does_nothing_twice(config: Path, tmp_path: Path, ray_cluster: None) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(build(), ["pipeline", str(config), "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert list(summary["stages"]) == ["features", "split", "projection", "models", "report"]
    runs = {run["name"]: run for run in summary["runs"]}
    assert runs["cnn-localize"]["detection"]["average_map"] > 0.5
    assert runs["cnn-paper"]["detection"]["average_map"] < 0.1
    split = load_split(str(out / "split.json"))
    assert [len(split.video_ids(subset)) for subset in ("training", "validation", "testing")] == [12, 1, 1]
    # The projection saw the training videos alone.
    assert summary["projection"]["rows"] == 12 * 12
    assert "cnn-localize" in (out / "report.html").read_text()

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = CliRunner().invoke(build(), ["pipeline", str(config), "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["runs"] == summary["runs"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == stamps

    command = ["pipeline", str(config), "--set", "models=[lstm]"]
    with pytest.raises(InputError, match="another models"):
        CliRunner().invoke(build(), command, catch_exceptions=False)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configurations_are_valid(path: Path) -> None:
    validated(PipelineConfig, read_yaml(str(path)), where=str(path))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("features.videos=x", "name one of videos and released"),
        ("features.strid=4", "features.strid: extra inputs"),
        ("models=[]", "models: list should have at least 1 item"),
        ("projection.dim=0", "projection.dim: input should be greater than 0"),
        ("split.by=class", "split.by: input should be"),
        ("split.folds=5", "folds are for `balletal compare`"),
        ("out=s3://bucket/run", "out: value error, should be a local folder"),
    ],
)
def test_wrong_values_are_named(setting: str, message: str) -> None:
    values = with_settings(read_yaml(str(CONFIGS / "annchor-released.yaml")), [setting])
    with pytest.raises(InputError, match=message):
        validated(PipelineConfig, values, where="test")
