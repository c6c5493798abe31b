"""The paper's failure, told from the files of its runs."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from balletal.report.paper import paper_section, unreachable
from balletal.report.runs import read_results
from balletal.segments import segment_table


def edit_losses(run: Path, boundary: list[float]) -> None:
    losses = pd.read_csv(run / "losses.csv")[: len(boundary)]
    losses.assign(val_boundary=boundary).to_csv(run / "losses.csv", index=False)


def test_what_no_sigmoid_reaches_is_weighted_by_length() -> None:
    segments = segment_table(["u", "v"], [3.0, 0.2], [5.0, 0.8], ["Courus", "Courus"])
    assert unreachable(segments) == pytest.approx(2.0 / 2.6 * (2.0**2 + 4.0**2) / 2)


def test_the_failure_is_told_in_the_numbers_of_the_run(comparison) -> None:
    folder = comparison(videos=3)
    run = folder / "runs" / "cnn-paper"
    edit_losses(run, [987.6, 432.1, 234.5])
    durations = read_results(folder).durations
    found = pd.read_parquet(run / "detections.parquet")
    end = found["video_id"].map(durations)
    share = 0.75  # of the detections are put to the end of their videos
    last = pd.Series(range(len(found))) < share * len(found)
    found = found.assign(start=found["start"].where(~last, end - 0.01), end=found["end"].where(~last, end))
    found.to_parquet(run / "detections.parquet")
    metrics = json.loads((run / "metrics.json").read_text())

    results = read_results(folder)
    section = paper_section(results)
    assert f"about {unreachable(results.ground_truth):,.1f}. There" in section
    row = re.search(r'<tr><th scope="row">cnn-paper</th>(.*?)</tr>', section)
    assert row is not None
    cells = re.findall("<td>(.*?)</td>", row[1])
    accuracy = [metrics["detection"]["average_map"], metrics["frames"]["foreground_accuracy"]]
    assert cells[:4] == [*(f"{100 * value:.1f}" for value in accuracy), "987.6", "234.5"]
    assert float(cells[4]) == pytest.approx(100 * share, abs=2)
    assert cells[5] == "0.01"
    names = re.findall(r'<th scope="row">(.*?)</th>', section)
    assert names == ["lstm-paper", "lstm-localize", "cnn-paper", "cnn-localize", "annotated steps"]


def test_only_a_run_that_cannot_reach_its_targets_is_explained(comparison) -> None:
    folder = comparison(videos=2)
    for name in ("cnn-paper", "lstm-paper"):
        edit_losses(folder / "runs" / name, [0.4, 0.2])  # what targets as parts of the video give
    assert paper_section(read_results(folder)) == ""
    edit_losses(folder / "runs" / "lstm-paper", [90.4, 80.2])
    section = paper_section(read_results(folder))
    assert "lstm-localize" in section
    assert "cnn" not in section
    (folder / "runs" / "lstm-paper" / "losses.csv").unlink()
    assert paper_section(read_results(folder)) == ""
