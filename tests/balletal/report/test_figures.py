import xml.etree.ElementTree as ET

import numpy as np
import pytest

from balletal.report import figures
from balletal.report.runs import read_results


def test_figures_are_plain_svg_in_the_pages_colours(comparison) -> None:
    runs = read_results(comparison(videos=2)).runs
    labels = sorted(runs[0].metrics["detection"]["ap_by_class"])
    drawn = [figures.map_curves(runs), figures.loss_curves(runs), figures.error_bars(runs)]
    for svg in (*drawn, figures.reliability_curves(runs), figures.class_bars(runs, labels)):
        root = ET.fromstring(svg)
        assert root.get("aria-label")
        assert all("style" not in element.attrib for element in root.iter())
        assert "currentColor" in svg
        assert "#010203" not in svg
        texts = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {run.name for run in runs} <= set(texts)
    assert svg == figures.class_bars(runs, labels)


def test_values_at_a_threshold() -> None:
    detection = {"tiou": [0.3, 0.1 + 0.4, 0.7], "map": [3, 2, 1], "ap_by_class": {"Courus": [0.3, 0.2, 0.1]}}
    assert figures.at_tiou(detection, detection["map"], 0.5) == 2
    assert figures.at_tiou(detection, detection["map"], 0.6) is None
    assert figures.ap_at(detection, "Courus", 0.7) == pytest.approx(0.1)
    assert figures.ap_at(detection, "Pirouette", 0.7) is None


def test_error_bars_count_the_tiers_that_they_name(comparison) -> None:
    (run,) = read_results(comparison(videos=2, runs=1)).runs
    counts = run.metrics["diagnosis"]["counts"]
    assert figures.outcome_counts(run, 0.5, 1)["background"] == counts["background"][2][0]
    assert sum(figures.outcome_counts(run, 0.5, 10).values()) == sum(sum(rows[2]) for rows in counts.values())


def test_the_confusion_map_names_all_labels_and_gives_shares_of_rows(comparison) -> None:
    (run,) = read_results(comparison(videos=2, runs=1)).runs
    labels = run.metrics["confusion"]["labels"]
    counts = np.zeros((len(labels) + 1, len(labels) + 1), int)
    counts[0, :3] = 1, 1, 2
    run.metrics["confusion"]["counts"] = counts.tolist()
    root = ET.fromstring(figures.confusion_map(run))
    texts = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {*labels, "missed", "background"} <= set(texts)
    assert sorted(text for text in texts if text.isdigit()) == ["25", "25", "50"]


def test_runs_of_one_colour_have_markers_of_their_own() -> None:
    lines = [tuple(figures._line(i).values()) for i in range(42)]
    assert len(set(lines)) == 42
