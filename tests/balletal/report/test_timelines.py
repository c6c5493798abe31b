import pytest

from balletal.report.runs import read_results
from balletal.report.timelines import choose_shown, timeline_data
from balletal.segments import segment_table

TRUTH = segment_table("v", [0.0, 10.0, 20.0], [1.0, 11.0, 21.0], ["Pirouette", "Courus", "Pirouette"])


def detections(rows: list[tuple[float, float, str, float]]):
    start, end, label, score = zip(*rows, strict=True)
    return segment_table("v", start, end, label, score=score)


def test_the_threshold_is_the_one_with_the_best_f1() -> None:
    shown = choose_shown(
        TRUTH,
        detections(
            [
                (50.0, 51.0, "Courus", 0.2),  # false
                (0.1, 1.1, "Pirouette", 0.9),  # right
                (20.0, 21.0, "Courus", 0.8),  # wrong class
                (10.0, 11.0, "Courus", 0.7),  # right
                (0.0, 1.0, "Pirouette", 0.6),  # the step is taken already
                (60.0, 61.0, "Courus", 0.1),  # false
            ]
        ),
    )
    # After 1: 2/4; after 3: 4/6, the best; after 4: 4/7.
    assert shown.threshold == pytest.approx(0.7)
    assert shown.detections["hit"].tolist() == [True, False, True]
    assert (shown.f1, shown.precision, shown.recall) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_a_detection_takes_the_best_free_step_only_once() -> None:
    truth = segment_table("v", [0.0, 0.4], [1.0, 1.4], "Pirouette")
    shown = choose_shown(
        truth, detections([(0.1, 1.1, "Pirouette", 0.9), (0.1, 1.1, "Pirouette", 0.8), (0.1, 1.1, "Pirouette", 0.7)])
    )
    assert shown.f1 == 1.0
    assert len(shown.detections) == 2


def test_equal_scores_stand_or_fall_together() -> None:
    shown = choose_shown(TRUTH, detections([(0.0, 1.0, "Pirouette", 0.5), (70.0, 71.0, "Courus", 0.5)]))
    assert len(shown.detections) == 2
    assert shown.precision == 0.5


def test_without_a_hit_as_many_as_annotated_are_shown() -> None:
    wrong = detections([(100.0 + i, 100.5 + i, "Courus", 1 - i / 10) for i in range(9)])
    shown = choose_shown(TRUTH, wrong)
    assert len(shown.detections) == 3
    assert (shown.f1, shown.recall) == (0.0, 0.0)


def test_no_detections_at_all() -> None:
    shown = choose_shown(TRUTH, segment_table(score=[]))
    assert len(shown.detections) == 0
    assert shown.f1 == 0.0


def test_data_keeps_every_step_and_respects_the_limit(comparison) -> None:
    results = read_results(comparison(videos=5, runs=2))
    shown = {run.name: choose_shown(results.ground_truth, run.detections) for run in results.runs}
    labels = sorted(results.ground_truth["label"].unique())
    labels += sorted({label for run in results.runs for label in run.detections["label"]}.difference(labels))
    data = timeline_data(results, shown, labels)
    assert data["runs"] == ["lstm-localize", "cnn-localize"]
    assert sum(len(video["truth"]) for video in data["videos"]) == len(results.ground_truth)
    drawn = sum(len(video["runs"][0]) for video in data["videos"])
    assert drawn == len(shown["lstm-localize"].detections) < len(results.runs[0].detections) / 3
    for video in data["videos"]:
        for track in (video["truth"], *video["runs"]):
            assert all(start < end <= video["duration"] for _, start, end, *_ in track)

    two = timeline_data(results, shown, labels, videos=2)["videos"]
    counts = sorted(len(video["truth"]) for video in data["videos"])
    assert sorted(len(video["truth"]) for video in two) == counts[-2:]
