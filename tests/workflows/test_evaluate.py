import json

import pytest
import typer
from typer.testing import CliRunner

from balletal.errors import InputError
from workflows.evaluate import main, parse_tiou

GROUND_TRUTH = {
    "database": {
        "u": {
            "subset": "validation",
            "annotations": [{"label": "A", "segment": [0, 1]}, {"label": "B", "segment": [2, 3]}],
        },
        "v": {"subset": "training", "annotations": [{"label": "C", "segment": [0, 1]}]},
    }
}
RESULTS = {
    "results": {
        "u": [
            {"label": "A", "segment": [0.0, 0.9], "score": 0.9},
            {"label": "B", "segment": [2.0, 2.5], "score": 0.8},
            {"label": "C", "segment": [5.0, 6.0], "score": 0.1},
        ]
    }
}


@pytest.fixture
def evaluate(tmp_path):
    app = typer.Typer()
    app.command()(main)

    def call(*options, results=RESULTS):
        (tmp_path / "gt.json").write_text(json.dumps(GROUND_TRUTH))
        (tmp_path / "pred.json").write_text(json.dumps(results))
        files = ["--ground-truth", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "pred.json")]
        return CliRunner().invoke(app, [*files, *options], catch_exceptions=False)

    return call


def test_json(evaluate):
    result = json.loads(evaluate("--subset", "validation", "--json").stdout)
    assert result["tiou"] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert result["ap_by_class"] == {"A": [1.0] * 5, "B": [1.0, 1.0, 1.0, 0.0, 0.0]}
    assert result["map"] == [1.0, 1.0, 1.0, 0.5, 0.5]
    assert result["average_map"] == pytest.approx(0.8)
    assert set(result["ar"]) == {"1", "5", "10", "100"}
    assert 0 < result["auc"] < 99
    assert result["boundaries"]["matched"] == 2
    # C is a label of the file, though not of this subset.
    assert result["without_ground_truth"] == {"C": 1}


def test_detections_in_videos_of_other_subsets_do_not_count(evaluate):
    elsewhere = {"label": "A", "segment": [0.0, 0.9], "score": 0.95}
    alone = json.loads(evaluate("--subset", "validation", "--json").stdout)
    beside = {"results": {**RESULTS["results"], "v": [elsewhere]}}
    assert json.loads(evaluate("--subset", "validation", "--json", results=beside).stdout) == alone
    unknown = {"results": {**RESULTS["results"], "w": [elsewhere]}}
    found = json.loads(evaluate("--subset", "validation", "--json", results=unknown).stdout)
    assert found["ap_by_class"]["A"] == [0.5] * 5


def test_a_subset_without_segments_is_named(evaluate, monkeypatch):
    with pytest.raises(InputError, match="subset ''"):  # such as a shell's unset variable
        evaluate("--subset", "")
    monkeypatch.setitem(GROUND_TRUTH["database"], "w", {"subset": "testing", "annotations": []})
    with pytest.raises(InputError, match=r"gt.json: expected a segment in subset 'testing', found none"):
        evaluate("--subset", "testing")


def test_all_subsets(evaluate):
    result = json.loads(evaluate("--json", "--tiou", "0.5").stdout)
    assert result["map"] == [pytest.approx(2 / 3)]
    assert result["videos"] == 2


def test_table(evaluate):
    text = evaluate("--tiou", "0.5:0.95:0.05").stdout
    header = next(line for line in text.splitlines() if "AP %" in line)
    assert header.split() == ["AP", "%", *(f"{n / 20:g}" for n in range(10, 20)), "mean"]
    for part in ("mAP", "AR@100", "median boundary error", "3 detections, 3 segments in 2 videos"):
        assert part in text


def test_nothing_detected(evaluate):
    result = json.loads(evaluate("--json", results={"results": {"u": []}}).stdout)
    assert (result["average_map"], result["auc"], result["boundaries"]["matched"]) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"label": "Unheard", "segment": [0, 1], "score": 1}, "Unheard"),
        ({"label": "A", "segment": [0, 1], "score": float("nan")}, "finite score"),
    ],
)
def test_bad_detections_are_named(evaluate, item, message):
    with pytest.raises(InputError, match=message):
        evaluate(results={"results": {"u": [item]}})


def test_a_class_may_be_known_from_the_taxonomy_or_the_label_set(evaluate, monkeypatch):
    results = {"results": {"u": [{"label": "Courus", "segment": [0, 1], "score": 1}]}}
    known = json.loads(evaluate("--json", "--labels", "annchor-coarse", results=results).stdout)
    assert known["without_ground_truth"] == {"Courus": 1}
    monkeypatch.setitem(GROUND_TRUTH, "taxonomy", [{"nodeId": 0, "nodeName": "Courus", "parentId": None}])
    assert json.loads(evaluate("--json", results=results).stdout)["without_ground_truth"] == {"Courus": 1}


def test_bad_files_are_named(evaluate):
    with pytest.raises(InputError, match="without"):
        evaluate(results=GROUND_TRUTH)
    with pytest.raises(InputError, match="training, validation"):
        evaluate("--subset", "testing")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.3:0.7:0.1", [0.3, 0.4, 0.5, 0.6, 0.7]),
        ("0.5:0.95:0.05", [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]),
        ("0.1:0.35:0.1", [0.1, 0.2, 0.3]),
        ("0.5", [0.5]),
        ("0.5,0.75", [0.5, 0.75]),
    ],
)
def test_thresholds(text, expected):
    assert parse_tiou(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "0.3:0.7", "0.3:0.7:0", "0.7:0.3:0.1", "0:0.5:0.1", "0.5:1.5:0.5", "0.3:0.7:nan", "0.3:0.7:1e-12"]
)
def test_thresholds_that_are_none(evaluate, text):
    assert evaluate("--tiou", text).exit_code == 2


def test_frames_where_the_durations_are_known(evaluate, monkeypatch):
    assert json.loads(evaluate("--subset", "validation", "--json").stdout)["frames"] is None
    monkeypatch.setitem(GROUND_TRUTH["database"]["u"], "duration", 4.0)
    frames = json.loads(evaluate("--subset", "validation", "--json").stdout)["frames"]
    # 100 frames, 50 of them in steps: A is found for 22 or 23 of its 25, B for 12 or 13 of its 25.
    assert frames["foreground_accuracy"] == pytest.approx((0.9 + 0.5) / 2, abs=0.02)
    assert frames["accuracy"] == pytest.approx((22.5 + 12.5 + 50) / 100, abs=0.02)
    assert frames["f1"] == {"10": 1.0, "25": 1.0, "50": 0.5}
    assert "frames right: 84" in evaluate("--subset", "validation").output
    none = json.loads(evaluate("--subset", "validation", "--frame-score", "0.95", "--json").stdout)["frames"]
    assert none["foreground_accuracy"] == 0
