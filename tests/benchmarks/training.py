"""What training costs, and that it gives the same however it was run: `python -m tests.benchmarks.training`.

Prints Markdown tables of two parts:

- `epochs`: CPU seconds of an epoch of each model (recipe `localize`), as ratios to the `paper` recipe of the cnn on
  the same sequences in the same run: the quickest of some epochs each, in turn, on one thread, so that other work on
  the machine tells little. Each recipe has its own batch size, hence `steps` an epoch. The sequences are noise with
  steps in them, of the shapes of AnnChor's released features (650 videos of 40 features of 512, 2.56 s apart) and of
  its windowed 16/8 features (30 videos of 250 of 256, 0.32 s apart).
- `sameness`: average mAP on the validation videos of one worker, of two, and of a training that is killed half way and
  given the same command again, for some seeds. The videos are made: 24 to learn from, 24 to validate on; noise makes
  them hard enough for seeds to differ.
"""

import argparse
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.tal.config import ModelName, Recipe, recipe
from balletal.tal.sequences import LabelledSequence
from balletal.tal.training import Training, steps_per_epoch
from tests.benchmarks.extraction_common import load, machine
from tests.workflows.corpus import Corpus, write_corpus

PARTS = ("epochs", "sameness")
CLASSES, STEPS_A_SECOND = 11, 0.4  # about what AnnChor has
SETS = {"released 64/64": (650, 40, 512, 64, 64), "windowed 16/8": (30, 250, 256, 16, 8)}
SMALL = {"optim.epochs": 30, "optim.batch_size": 4, "optim.lr": 0.01, "optim.ema": 0.9, "model.hidden": 16}
SMALL |= {"model.upsample": 2, "model.substep_dim": 16, "model.substep_layers": 1, "optim.checkpoint_epochs": 5}

WAYS: dict[str, dict[str, Any]] = {
    "one worker": {},
    "two workers": {"workers": 2},
    "one worker, killed and resumed": {"kill": True},
}


def draw(videos: int, length: int, dim: int, spec: FeatureSpec) -> list[LabelledSequence]:
    """Videos of ``length`` features, with steps."""
    rng = np.random.default_rng(0)
    duration = length * spec.stride_s
    made = []
    for v in range(videos):
        n = round(duration * STEPS_A_SECOND)
        start = np.sort(rng.uniform(0, duration - 1.3, n))
        segments = np.stack([start, start + rng.uniform(0.36, 1.3, n)], axis=1)
        features = rng.normal(0, 1, (length, dim)).astype(np.float32)
        made.append(
            LabelledSequence(f"v{v}", features, segments, rng.integers(0, CLASSES, n), np.zeros((n, 0), bool), duration)
        )
    return made


def epochs(times: int) -> Iterator[str]:
    """Rows of the table of epoch times."""
    runs: list[tuple[ModelName, Recipe]] = []
    for name, (videos, length, dim, window, stride) in SETS.items():
        spec = FeatureSpec(
            backbone="none", weights="unknown", streams=("rgb",), fps=25, window=window, stride=stride, size=0,
            crop="center", mode="imported", dim=dim,
        )  # fmt: skip
        data = draw(videos, length, dim, spec)
        runs = [("cnn", recipe("cnn", "paper"))]
        for model in ("cnn", "lstm", "transformer"):
            runs.append((model, recipe(model, "localize", spec.stride_s)))
        trainings = [
            Training(
                settings, spec, in_dim=dim, num_classes=CLASSES, steps_per_epoch=steps_per_epoch(videos, settings.optim)
            )
            for _, settings in runs
        ]
        spent = [math.inf] * len(trainings)
        for _ in range(times):
            for i, training in enumerate(trainings):
                started = time.process_time()
                training.train_epoch(data)
                spent[i] = min(spent[i], time.process_time() - started)
        for (model, settings), training, seconds in zip(runs, trainings, spent, strict=True):
            kind = "paper" if settings.model.boundary == "fraction" else f"localize, upsample {settings.model.upsample}"
            size = sum(p.numel() for p in training.model.parameters()) / 1e6
            ratio = seconds / spent[0]
            steps = steps_per_epoch(videos, settings.optim)
            yield f"| {name} | {model} | {kind} | {size:.2f} M | {steps} | {seconds:.2f} | {ratio:.2f} |"


def command(corpus: Corpus, out: Path, seed: int, workers: int) -> list[str]:
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    where = ["--store", corpus.store, "--projection", corpus.projection, "--annotations", corpus.annotations]
    where += ["--split", corpus.split, "--out", str(out)]
    how = ["--model", "cnn", "--seed", str(seed), "--workers", str(workers)]
    return [sys.executable, "-m", "workflows.train", *where, *how, *settings]


def average_map(corpus: Corpus, out: Path, seed: int, *, workers: int = 1, kill: bool = False) -> float:
    """Train by the command line and return the average mAP; ``kill`` ends the first try at half of its epochs."""
    line = command(corpus, out, seed, workers)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if kill:
        first = subprocess.Popen(line, start_new_session=True, **quiet)  # type: ignore[call-overload]
        while _epochs_done(out) < SMALL["optim.epochs"] / 2:
            if first.poll() is not None:
                raise SystemExit(f"the training in {out} ended before it could be killed")
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        if files.exists(str(out / "metrics.json")):
            raise SystemExit(f"the training in {out} was killed too late")
    subprocess.run(line, check=True, **quiet)  # type: ignore[call-overload]
    value: float = files.read_json(str(out / "metrics.json"))["detection"]["average_map"]
    return value


def _epochs_done(out: Path) -> int:
    losses = out / "losses.csv"
    return len(losses.read_text().splitlines()) - 1 if losses.exists() else 0


def sameness(seeds: int) -> Iterator[str]:
    """Rows of the table of average mAP."""
    folder = Path(tempfile.mkdtemp(prefix="balletal-benchmark-"))
    try:
        corpus = write_corpus(folder, training=24, validation=24, noise=1.2)
        found = []
        for seed in range(seeds):
            ways = enumerate(WAYS.values())
            found.append([average_map(corpus, folder / f"run{seed}-{n}", seed, **options) for n, options in ways])
            yield f"| seed {seed} | {' | '.join(f'{value:.4f}' for value in found[-1])} |"
        if seeds > 1:
            spread = (f"{statistics.fmean(way):.3f} ± {statistics.stdev(way):.3f}" for way in zip(*found, strict=True))
            yield f"| mean ± sd over seeds | {' | '.join(spread)} |"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="epochs of each model, of which the quickest counts")
    parser.add_argument("--seeds", type=int, default=3, help="of the weights and of the order, for sameness")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine('cpu')}; {load()} at the start\n")
    if "epochs" in args.parts:
        print("| features | model | recipe | parameters | steps | CPU s of an epoch | ratio |")
        print("| --- | --- | --- | ---: | ---: | ---: | ---: |", flush=True)
        for row in epochs(args.times):
            print(row, flush=True)
        print()
    if "sameness" in args.parts:
        print(f"| average mAP | {' | '.join(WAYS)} |")
        print(f"| --- |{' ---: |' * len(WAYS)}", flush=True)
        for row in sameness(args.seeds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
