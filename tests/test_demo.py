"""What demo.sh would run: its commands, without running them."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ANNOTATIONS = "Annotation Files/Processed Model JSON Annotation Files/AnnChor1000-TD.json"


def demo(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    command = folder / "bin" / "balletal"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    environment = {"PATH": f"{command.parent}:{os.environ['PATH']}", "DEMO": "demo"} | settings
    return subprocess.run(
        ["sh", str(ROOT / "demo.sh")], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("preset", "size"), [("", "320x240"), ("wild", "480x270")])
def test_drawn(tmp_path: Path, preset: str, size: str) -> None:
    done = demo(tmp_path, PRESET=preset)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["doctor", "synth", "annotations", "pipeline"]
    assert f"--preset {preset or 'easy'} " in done.stdout
    assert f"--size {size}" in done.stdout


@pytest.mark.parametrize(("size", "config"), [(200_000, "annchor-videos"), (130, "annchor-released")])
def test_data(tmp_path: Path, size: int, config: str) -> None:
    """A clone without Git LFS has small pointers in the place of videos."""
    data = tmp_path / "a clone"
    for name, content in ((ANNOTATIONS, b"{}"), ("AnnChor1000-Original-Videos/ACM/ACM0000.mp4", bytes(size))):
        (data / name).parent.mkdir(parents=True)
        (data / name).write_bytes(content)
    done = demo(tmp_path, DATA=str(data))
    assert done.returncode == 0
    assert f"pipeline workflows/configs/{config}.yaml" in done.stdout


def test_data_that_is_not_there(tmp_path: Path) -> None:
    done = demo(tmp_path, DATA=str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected a folder in AnnChor's layout, found no " in done.stderr
