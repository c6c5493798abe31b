"""What is lost when an extraction is disturbed: ``python -m tests.benchmarks.faults [--only PART_OF_A_NAME]``.

Each fault has a store of its own: an extraction that it disturbs, at a moment that is waited for, then the same command
once more. What is in the store then is compared with what an undisturbed extraction left: the bytes of every unit's
file, the error rows, what is known of each video. Linux alone; mounting small disks needs root.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import safetensors.torch
import torch
import typer

from balletal.backbones.i3d import InceptionI3D
from balletal.features.extractor import spec_for
from balletal.features.store import FeatureStore
from tests.benchmarks.fault_kinds import FAULTS, SERVERS, Try, known, same, undisturbed
from tests.workflows.conftest import _write_video
from tests.workflows.faults_common import Content, content, processes
from workflows.console import run, say

VIDEOS = 3


def make_corpus(folder: Path) -> None:
    for i in range(VIDEOS):
        _write_video(folder / f"v{i}.mp4", 4.0, seed=i)
    whole = _write_video(folder / "cut.mp4", 4.0, seed=50).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: int(len(whole) * 0.6)])
    (folder / "broken.mp4").write_bytes(b"no video")


def main(
    only: Annotated[list[str] | None, typer.Option(help="Faults whose name or moment holds one of these.")] = None,
) -> None:
    """Print the table of faults, a row as soon as it is known."""
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    torch.manual_seed(0)
    weights = str(home / "random.safetensors")
    state = {name: value.contiguous() for name, value in InceptionI3D(num_classes=0).state_dict().items()}
    safetensors.torch.save_file(state, weights)
    spec = spec_for("i3d-rgb", weights=weights, window=16, stride=4, size=32, mode="windowed", dtype="float32")
    videos = home / "videos"
    make_corpus(videos)
    nothing = Content({}, [], [], 0)
    with scratch() as folder:
        first = Try(home, folder, videos, weights, spec, nothing, store=str(home / "alone"))
        usual = undisturbed(first)
    say(f"undisturbed: {len(usual.units)} units, {usual.rows} rows, {len(usual.errors)} error rows")
    print("| fault | moment | left by the disturbed run | lost after the rerun | rows compared | equal |")
    print("|---|---|---|---|---|---|", flush=True)
    equal = True
    for number, (name, moment, disturb) in enumerate(FAULTS):
        if only and not any(part.lower() in f"{name} {moment}".lower() for part in only):
            continue
        about = home / f"{number:02d}"
        about.mkdir()
        with scratch() as folder:
            one = Try(about, folder, videos, weights, spec, usual, store=str(about / "store"))
            before = dict(os.environ)
            try:
                disturb(one)
                verdict = compare(one)
            except Exception as error:  # a fault that could not be made says so, and the others go on
                verdict = f"{type(error).__name__}: {error}".replace("\n", " ") + " | | no"
            for process in processes(folder):
                os.kill(process, signal.SIGKILL)
            while SERVERS:
                SERVERS.pop().kill()
            os.environ.clear()
            os.environ.update(before)
        equal &= verdict.endswith("yes")
        print(f"| {name} | {moment} | {one.left} | {verdict} |", flush=True)
    if equal:
        shutil.rmtree(home)
    else:
        say(f"logs: {home}")
        sys.exit(1)


def compare(one: Try) -> str:
    """Run the same command once more, and compare: what is lost, rows compared, equal."""
    rerun = one.run("rerun", **(one.rerun_options or {}))
    assert rerun.wait(300) == 0, one.log("rerun")
    found, expected = content(FeatureStore(one.store, one.spec)), one.expected or one.usual
    if one.ignored:
        found, expected = found.without(one.ignored), expected.without(one.ignored)
    lost = len(set(expected.units) - set(found.units))
    if one.wrong:
        return f"{lost or 'nothing'} | {found.rows} | no: see what was left"
    if same(found, expected):
        return f"{lost or 'nothing'} | {found.rows} | yes"
    differing = [unit for unit in expected.units if found.units.get(unit) != expected.units[unit]]
    more = set(found.units) - set(expected.units)
    errors = [row for row in found.errors if row not in expected.errors]
    told = f"no: units {differing[:5]}, too many {sorted(more)[:5]}, errors {errors[:3]}"
    told += "" if known(found) == known(expected) else ", videos"
    return f"{lost} | {found.rows} | {told}"


@contextmanager
def scratch() -> Iterator[str]:
    """A short path, for sockets."""
    folder = tempfile.mkdtemp(dir="/tmp", prefix="k")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(main)
