"""Drawing a corpus in parallel, resuming it, letting it grow."""

import json
import os
import signal
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

import workflows.synth
from balletal import files
from balletal.annotations import read_annotations
from balletal.errors import BalletalError, InputError
from balletal.synthetic.card import dataset_card
from balletal.synthetic.corpus import write_annotations, write_video
from balletal.synthetic.presets import PRESETS
from workflows.cli import build
from workflows.synth import synth

SIZE = (96, 64)
SETTINGS = {"seed": 4, "preset": "easy", "size": SIZE}


def no_ray(*_: object) -> None:
    raise AssertionError("Ray was started for nothing")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.ray
def test_a_corpus_is_the_same_however_it_was_drawn(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "parallel"
    summary = synth(str(out), 3, 6.0, **SETTINGS)  # type: ignore[arg-type]
    whole = content(out)
    ids = ["AAA0000", "AAB0000", "AAC0000"]
    assert sorted(whole) == sorted(
        ["annotations.json", "card.md", "config.yaml"]
        + [f"{folder}/{name}.{suffix}" for name in ids for folder, suffix in (("videos", "mp4"), ("joints", "parquet"))]
        + [f"via/{name[:3]}.csv" for name in ids]
    )
    annotations = read_annotations(str(out / "annotations.json"))
    assert list(annotations.videos["video_id"]) == ids
    assert (summary["videos"], summary["resumed"], summary["preset"]) == (3, 0, "easy")
    assert summary["segments"] == len(annotations.segments) == sum(summary["labels"].values())
    assert summary["video_seconds"] == 18.0
    assert summary["times_real_time"] == pytest.approx(18 / summary["wall_seconds"], rel=0.05)

    # One after the other, in this process.
    alone = tmp_path / "alone"
    records = [write_video(str(alone), index, 4, 6.0, PRESETS["easy"], SIZE) for index in (2, 0, 1)]
    records.sort(key=lambda record: record.video_id)
    write_annotations(str(alone), records, dataset_card(records, seed=4, seconds=6.0, preset="easy", size=SIZE))
    assert content(alone) == {name: data for name, data in whole.items() if name != "config.yaml"}

    # Killed in the middle: one video has no joints yet, another was not begun, and nothing is annotated.
    for name in ("joints/AAA0000.parquet", "joints/AAC0000.parquet", "videos/AAC0000.mp4", "annotations.json"):
        (out / name).unlink()
    before = (out / "videos" / "AAB0000.mp4").stat().st_mtime_ns
    again = synth(str(out), 3, 6.0, **SETTINGS)  # type: ignore[arg-type]
    assert (again["resumed"], again["segments"]) == (1, summary["segments"])
    assert content(out) == whole
    assert (out / "videos" / "AAB0000.mp4").stat().st_mtime_ns == before

    for name in ("videos/AAA0000.mp4", "joints/AAB0000.parquet"):
        (out / name).write_bytes(b"")
    assert synth(str(out), 3, 6.0, **SETTINGS)["resumed"] == 1  # type: ignore[arg-type]
    assert content(out) == whole

    with monkeypatch.context() as patch:
        patch.setattr(workflows.synth, "ray_session", no_ray)
        done = synth(str(out), 3, 6.0, **SETTINGS)  # type: ignore[arg-type]
    assert (done["resumed"], done["times_real_time"]) == (3, None)
    assert content(out) == whole

    more = synth(str(out), 4, 6.0, **SETTINGS)  # type: ignore[arg-type]
    assert (more["resumed"], more["videos"]) == (3, 4)
    grown = content(out)
    changed = {name for name in whole if grown[name] != whole[name]}
    assert changed == {"annotations.json", "card.md"}
    assert set(grown) - set(whole) == {"videos/AAD0000.mp4", "joints/AAD0000.parquet", "via/AAD.csv"}
    with pytest.raises(InputError, match="AAD0000 is there"):
        synth(str(out), 3, 6.0, **SETTINGS)  # type: ignore[arg-type]
    assert content(out) == grown


@pytest.mark.ray
def test_a_place_that_only_one_process_has_is_refused(ray_cluster: None) -> None:
    with pytest.raises(InputError, match=r"a place that all of Ray's workers write to.* 1 drawn videos not there"):
        synth("memory://corpus", 1, 4.0, **SETTINGS)  # type: ignore[arg-type]


@pytest.mark.ray
def test_a_video_whose_worker_dies_is_named(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @ray.remote(num_cpus=1, max_retries=0)
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(workflows.synth, "_draw", killed)
    with pytest.raises(BalletalError, match=r"^video AAA0000: .*died.*\(WorkerCrashedError\)$"):
        synth(str(tmp_path), 1, 4.0, **SETTINGS)  # type: ignore[arg-type]


def test_joints_that_cannot_be_read_are_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflows.synth, "ray_session", no_ray)
    for name in ("videos/AAA0000.mp4", "joints/AAA0000.parquet"):
        files.write_bytes(str(tmp_path / name), b"nothing")
    with pytest.raises(InputError, match=r"AAA0000\.parquet: expected a joints file"):
        synth(str(tmp_path), 2, 4.0, **SETTINGS)  # type: ignore[arg-type]


@pytest.mark.ray
def test_a_video_that_fails_is_named(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "videos").write_text("not a folder")
    with pytest.raises(BalletalError, match=r"^video AA[AB]0000: .*a folder"):
        synth(str(tmp_path), 2, 4.0, seed=0, preset="easy", size=(64, 64))
    assert not (tmp_path / "annotations.json").exists()


def test_another_corpus_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflows.synth, "ray_session", no_ray)
    settings = {"generator": workflows.synth.GENERATOR, "seed": 4, "seconds": 6.0, "preset": "easy", "size": [96, 64]}
    (tmp_path / "config.yaml").write_text(json.dumps(settings | {"seed": 5}))
    with pytest.raises(InputError, match=r"one of another seed \(5\)$"):
        synth(str(tmp_path), 3, 6.0, **SETTINGS)  # type: ignore[arg-type]
    (tmp_path / "config.yaml").write_text(json.dumps(settings | {"generator": 0, "size": [96, 96]}))
    with pytest.raises(InputError, match=r"one of another generator \(0\), size \(\[96, 96\]\)"):
        synth(str(tmp_path), 3, 6.0, **SETTINGS)  # type: ignore[arg-type]
    (tmp_path / "config.yaml").write_text("[]")
    with pytest.raises(InputError, match=r"config\.yaml: expected a YAML mapping, found list"):
        synth(str(tmp_path), 3, 6.0, **SETTINGS)  # type: ignore[arg-type]
    (tmp_path / "config.yaml").rename(tmp_path / "annotations.json")
    with pytest.raises(InputError, match="annotations of something else"):
        synth(str(tmp_path), 3, 6.0, **SETTINGS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--videos", "0"], "at least 1"),
        (["--seconds", "3"], "at least 4 s"),
        (["--seconds", "nan"], "at least 4 s"),
        (["--seconds", "3601"], "at most 3600 s"),
        (["--videos", "1000001"], "at most 1000000"),
        (["--seed", "-1"], "0 or more"),
        (["--size", "97x64"], "even sides"),
        (["--size", "62x64"], "from 64"),
        (["--size", "64x258"], "four times"),
        (["--size", "96"], "WIDTHxHEIGHT"),
        (["--size", "axb"], "WIDTHxHEIGHT"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, options: list[str], words: str) -> None:
    done = CliRunner().invoke(build(), ["synth", "--out", str(tmp_path / "x"), *options])
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)
    assert not (tmp_path / "x").exists()


def test_bad_use(tmp_path: Path) -> None:
    assert CliRunner().invoke(build(), ["synth", "--out", str(tmp_path), "--preset", "moon"]).exit_code == 2
    with pytest.raises(InputError, match="one of easy, stage, wild"):
        synth(str(tmp_path), 1, 4.0, preset="moon")  # type: ignore[arg-type]
