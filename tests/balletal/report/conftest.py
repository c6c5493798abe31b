"""A comparison with made-up results, written as `balletal compare` leaves it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from balletal.annotations import read_annotations
from balletal.labels import LabelSet
from balletal.metrics.localizer import measure_detections

LABEL_SET = LabelSet.load("annchor-coarse")
LABELS = LABEL_SET.labels
TIOU = [0.3, 0.4, 0.5, 0.6, 0.7]


def write_comparison(folder: Path, *, videos: int = 6, runs: int = 4, seed: int = 0) -> Path:
    """A compare directory of ``videos`` videos of about a minute and ``runs`` runs of different quality."""
    random = np.random.default_rng(seed)
    database = {}
    for i in range(videos):
        duration = float(random.uniform(35, 95))
        starts = np.sort(random.uniform(0, duration - 2, int(duration * 0.4)))
        database[f"FPF{i:04d}"] = {
            "subset": "validation",
            "duration": round(duration, 3),
            "fps": 25.0,
            "annotations": [
                {
                    "label": LABELS[int(random.choice(len(LABELS), p=_PRIOR))],
                    "segment": [round(start, 2), round(start + random.uniform(0.36, 1.3), 2)],
                }
                for start in starts
            ],
        }
    _json(folder / "ground_truth.json", {"version": "1", "database": database})
    kinds = [("lstm", "localize"), ("cnn", "localize"), ("lstm", "paper"), ("cnn", "paper")][:runs]
    for i, (model, recipe) in enumerate(kinds):
        _write_run(folder / "runs" / f"{model}-{recipe}", model, recipe, database, 0.12 + 0.22 * i, random)
    return folder


_PRIOR = np.array([5, 4, 9, 6, 10, 22, 7, 8, 12, 3, 14]) / 100


def _write_run(
    folder: Path, model: str, recipe: str, database: dict, noise: float, random: np.random.Generator
) -> None:
    rows = []
    for video, entry in database.items():
        for annotation in entry["annotations"]:
            start, end = np.array(annotation["segment"]) + random.normal(0, noise / 2, 2)
            label = annotation["label"] if random.random() > noise / 2 else str(random.choice(LABELS))
            rows.append((video, max(start, 0.0), max(end, start + 0.1), label, float(random.beta(6, 3))))
        for _ in range(120):  # what a detector keeps for its recall
            start = random.uniform(0, entry["duration"] - 1)
            rows.append((video, start, start + 0.7, str(random.choice(LABELS)), float(random.beta(1.2, 8))))
    table = pd.DataFrame(rows, columns=["video_id", "start", "end", "label", "score"])
    table["score"] = table["score"].astype("float32")
    folder.mkdir(parents=True)
    table.to_parquet(folder / "detections.parquet")
    epochs = np.arange(1, 31)
    scale = 4805.0 if recipe == "paper" else 1.6
    pd.DataFrame(
        {
            "epoch": epochs,
            "train_total": scale * (0.25 + 0.75 * np.exp(-epochs / 7)) + random.normal(0, scale / 60, 30),
            "val_total": scale * (0.45 + 0.55 * np.exp(-epochs / 6)) + random.normal(0, scale / 60, 30),
            "val_boundary": scale * (0.26 + 0.31 * np.exp(-epochs / 6)),
        }
    ).to_csv(folder / "losses.csv", index=False)
    curve = np.array([0.62, 0.55, 0.44, 0.31, 0.17]) * (1.05 - noise)
    ap = {label: list(np.clip(curve * random.uniform(0.5, 1.5), 0, 1)) for label in LABELS}
    metrics = {
        "name": f"{model}-{recipe}",
        "model": model,
        "recipe": recipe,
        "seed": 0,
        "subset": "validation",
        "split": {"by": "video", "seed": 0},
        "detection": {
            "tiou": TIOU,
            "map": list(curve),
            "average_map": float(curve.mean()),
            "ap_by_class": ap,
            "ar": {"1": 0.1, "5": 0.3, "10": 0.4, "100": 0.6},
            "auc": 41.0,
        },
        "frames": {
            "accuracy": 0.85 - noise / 3,
            "foreground_accuracy": 0.82 - noise / 2,
            "background": 0.774,
            "f1": {"50": 0.4},
            "edit": 50,
        },
        "boundaries": {"start_median_s": 0.05 + noise / 4, "end_median_s": 0.07 + noise / 4, "matched": 100},
        "losses": {
            "train": {"total": scale * 0.26, "class": scale * 0.1, "boundary": scale * 0.16},
            "val": {"total": scale * 0.46, "class": scale * 0.2, "boundary": scale * 0.26},
        },
        "parameters": 5_376_013 if model == "lstm" else 1_182_221,
        "train_seconds": 143.0 + 90 * noise,
        "data": "AnnChor released features",
    }
    truth = read_annotations(str(folder.parents[1] / "ground_truth.json"), LABEL_SET)
    measured = measure_detections(truth, table, LABEL_SET)
    metrics |= {name: measured[name] for name in ("diagnosis", "confusion", "durations", "calibration")}
    _json(folder / "metrics.json", metrics)


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def comparison(tmp_path: Path) -> Callable[..., Path]:
    return lambda **options: write_comparison(tmp_path / "comparison", **options)


@pytest.fixture
def browse(tmp_path: Path, chromium: str) -> Callable[[str], str]:
    """Open HTML text in a headless Chromium; gives the page as its scripts left it."""

    def run(html: str) -> str:
        page = tmp_path / "page.html"
        page.write_text(html, encoding="utf-8")
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        command += ["--disable-background-networking", "--disable-component-update"]
        command += [
            f"--user-data-dir={tmp_path / 'browser'}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            page.as_uri(),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout

    return run
