import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from balletal.errors import InputError
from balletal.report.html import render
from balletal.report.runs import read_results

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self._open: str | None = None
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = (dict(attrs).get("type") or "") + tag if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.raw[self._open] = self.raw.get(self._open, "") + data
        else:
            self.text += data


def test_the_page_needs_nothing_from_outside_and_obeys_its_own_policy(comparison) -> None:
    page = Page(render(read_results(comparison())))
    for tag, attributes in page.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag not in ("link", "img", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    for raw in (page.raw["modulescript"], page.raw["style"]):
        digest = base64.b64encode(hashlib.sha256(raw.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "innerHTML" not in page.raw["modulescript"]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_headline_and_the_papers_numbers(comparison) -> None:
    folder = comparison()
    page = Page(render(read_results(folder)))
    text = re.sub(r"\s+", " ", page.text)
    best = json.loads((folder / "runs/lstm-localize/metrics.json").read_text())
    assert f"{100 * best['detection']['average_map']:.1f}" in text
    assert "5.38 M" in text
    assert "77.4 % of the frames are background" in text
    paper = text[text.index("Printed in the paper") :]
    assert "not results of these runs" in paper
    for number in ("72.1", "68.4", "4,805", "constant [1, 1]"):
        assert number in paper
    assert text.index("lstm-localize") < text.index("cnn-paper")


def test_labels_cannot_become_markup(comparison) -> None:
    folder = comparison(videos=3, runs=1)
    run = folder / "runs" / "lstm-localize"
    detections = pd.read_parquet(run / "detections.parquet")
    detections["label"] = detections["label"].replace("Pirouette", HOSTILE)
    detections.to_parquet(run / "detections.parquet")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["detection"]["ap_by_class"][HOSTILE] = [0.1] * 5
    metrics["name"] = HOSTILE
    (run / "metrics.json").write_text(json.dumps(metrics))
    html = render(read_results(folder))
    assert HOSTILE not in html
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert HOSTILE in json.loads(page.raw["application/jsonscript"])["labels"]
    assert HOSTILE in page.text


def test_many_videos_stay_a_small_page(comparison) -> None:
    results = read_results(comparison(videos=80, runs=4))
    html = render(results)
    assert len(html) < 1_000_000
    assert len(html) - len(render(results, videos=5)) > 150_000


def rewritten(run: Path, **values: object) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | values))


def test_errors_stand_as_they_were_measured(comparison) -> None:
    folder = comparison(videos=3, runs=2)
    run = folder / "runs" / "lstm-localize"
    metrics = json.loads((run / "metrics.json").read_text())
    gain = metrics["diagnosis"]["gain"] | {"double": 0.4321, "missed": None}
    rewritten(run, diagnosis=metrics["diagnosis"] | {"gain": gain})
    sides = metrics["confusion"] | {"sides": {"found": 1234, "swapped": 617, "rate": 0.5}}
    html = render(read_results(folder))
    assert "wrong side" not in html
    rewritten(run, confusion=sides)
    text = re.sub(r"\s+", " ", Page(render(read_results(folder))).text)
    assert "43.2" in text
    assert "wrong side, %" in text
    assert "1234" in text
    for words in ("under 0.4 s", "0.4 to 0.7 s", "1.2 s and more", "wrong boundary", "missed"):
        assert words in text
    assert f"{100 * metrics['calibration']['ece']:.1f}" in text


def test_runs_of_older_measures_have_no_errors_section(comparison) -> None:
    folder = comparison(videos=2, runs=1)
    run = folder / "runs" / "lstm-localize"
    rewritten(run, diagnosis=None)
    html = render(read_results(folder))
    assert 'id="errors"' not in html
    assert 'href="#errors"' not in html


def test_tags_have_a_table_where_a_run_tells_them(comparison) -> None:
    folder = comparison(videos=2, runs=2)
    assert "Precision, %</th><th" not in render(read_results(folder)).split('id="videos"')[0]
    told = {"annotated": 12, "told": 20, "precision": 0.123, "recall": None, "f1": 0.456}
    rewritten(folder / "runs" / "lstm-localize", tags={"tiou": 0.5, "matched": 3456, "tags": {HOSTILE: told}})
    html = render(read_results(folder))
    assert HOSTILE not in html
    text = re.sub(r"\s+", " ", Page(html).text)
    assert HOSTILE in text
    for words in ("12 of 3,456", "12.3", "45.6", "Tags of the detections that find a step"):
        assert words in text


def test_seeds_give_mean_and_spread(comparison) -> None:
    folder = comparison(videos=2, runs=2)
    assert "standard deviation over seeds" not in render(read_results(folder))
    first, second = folder / "runs" / "cnn-localize-seed0", folder / "runs" / "cnn-localize-seed1"
    shutil.move(folder / "runs" / "cnn-localize", first)
    shutil.copytree(first, second)
    detection = json.loads((first / "metrics.json").read_text())["detection"]
    rewritten(first, name=first.name, seed=0, detection=detection | {"average_map": 0.2})
    rewritten(second, name=second.name, seed=1, detection=detection | {"average_map": 0.3})
    text = re.sub(r"\s+", " ", Page(render(read_results(folder))).text)
    assert "25.0 ± 7.1" in text
    assert "standard deviation over seeds" in text


def test_folds_stand_beside_what_they_give_together(comparison) -> None:
    folder = comparison(videos=3, runs=1)
    assert "Pooled" not in render(read_results(folder))
    run = folder / "runs" / "lstm-localize"
    detection = json.loads((run / "metrics.json").read_text())["detection"]
    classes = [{"Courus": [0.1]}, {"Courus": [0.1], "Pirouette": [0.2]}]
    folds = [
        {"videos": 2 - i, "detection": {"average_map": 0.2 + 0.1 * i, "ap_by_class": classes[i]}} for i in range(2)
    ]
    split = {"by": "variation", "seed": 7, "folds": 2}
    rewritten(run, folds=folds, split=split, detection=detection | {"average_map": 0.1234})
    html = render(read_results(folder))
    row = "<td>12.3</td><td>25.0 ± 7.1</td><td>20.0</td><td>30.0</td>"
    assert f'<th scope="row">lstm-localize</th>{row}' in html
    assert "The folds hold out 2 and 1 videos, with steps of 1 and 2 classes" in html
    assert "2 folds by variation, seed 7" in html


def test_one_run_without_curves(comparison) -> None:
    folder = comparison(videos=2, runs=1)
    run = folder / "runs" / "lstm-localize"
    (run / "losses.csv").unlink()
    shutil.copy(folder / "ground_truth.json", run)
    metrics = json.loads((run / "metrics.json").read_text())
    for key in ("frames", "boundaries", "losses", "parameters", "train_seconds"):
        del metrics[key]
    (run / "metrics.json").write_text(json.dumps(metrics))
    results = read_results(run)
    assert [r.name for r in results.runs] == ["lstm-localize"]
    assert "lstm-localize" in render(results)


def test_bad_folders_are_named(tmp_path: Path, comparison) -> None:
    with pytest.raises(InputError, match="a train or compare directory"):
        read_results(tmp_path)
    folder = comparison(videos=2, runs=2)
    (folder / "runs" / "cnn-paper").mkdir()
    assert "without results: cnn-paper" in render(read_results(folder))
    metrics = folder / "runs" / "cnn-localize" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"validation"', '"testing"'))
    with pytest.raises(InputError, match="one subset, found testing, validation"):
        read_results(folder)
    detections = folder / "runs" / "lstm-localize" / "detections.parquet"
    whole = detections.read_bytes()
    pd.read_parquet(detections).drop(columns="score").to_parquet(detections)
    with pytest.raises(InputError, match=r"detections\.parquet: expected columns .*score"):
        read_results(folder)
    detections.write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"expected a Parquet file, found .*magic bytes"):
        read_results(folder)
    detections.unlink()
    with pytest.raises(InputError, match=r"detections\.parquet"):
        read_results(folder)


def test_the_script_runs_in_a_browser(comparison, browse) -> None:
    results = read_results(comparison(videos=3, runs=2))
    page = browse(render(results))
    assert page.count('class="video"') == 3
    assert page.count('aria-label="Track ground truth"') == 3
    assert page.count('aria-label="ground truth: ') == len(results.ground_truth)
