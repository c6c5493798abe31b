import numpy as np
import pytest

from balletal.errors import InputError
from balletal.metrics.calibration import calibration, detection_temperature, fit_temperature, reliability
from balletal.segments import segment_table
from balletal.tal.decoding import temper


def log_loss(p, hit):
    return -np.where(hit, np.log(p), np.log1p(-p)).mean()


def drawn(temperature, n=20_000):
    """Scores, and hits as likely as the scores at this temperature say."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.02, 0.98, n)
    return scores, rng.uniform(size=n) < temper(scores, temperature)


def test_reliability_by_hand():
    result = reliability([0.1, 0.3, 0.9, 1.0], [False, True, True, True], bins=2)
    assert [(b["from"], b["to"], b["count"], b["precision"]) for b in result["bins"]] == [
        (0.0, 0.5, 2, 0.5),
        (0.5, 1.0, 2, 1.0),
    ]
    assert [b["score"] for b in result["bins"]] == pytest.approx([0.2, 0.95])
    assert result["ece"] == pytest.approx((2 * 0.3 + 2 * 0.05) / 4)


def test_scores_that_are_probabilities_have_no_error_and_others_have():
    assert reliability(*drawn(1.0))["ece"] < 0.02
    assert reliability(*drawn(3.0))["ece"] > 0.1


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_is_found_and_mends_the_error(temperature):
    scores, hits = drawn(temperature)
    fitted = fit_temperature(scores, hits)
    assert fitted == pytest.approx(temperature, rel=0.05)
    mended = temper(scores, fitted)
    assert reliability(mended, hits)["ece"] < 0.02
    for other in (0.9 * fitted, 1.1 * fitted):
        assert log_loss(mended, hits) < log_loss(temper(scores, other), hits)


def test_nothing_to_learn_from_leaves_scores_as_they_are():
    assert fit_temperature([], []) == fit_temperature([0.2, 0.7], [True, True]) == 1.0
    assert fit_temperature([0.2, 0.7], [False, False]) == 1.0


def test_extremes_stay_finite():
    """Scores that say the opposite of the truth, and scores without doubt."""
    assert fit_temperature([0.0, 1.0], [True, False]) == pytest.approx(100.0)
    assert fit_temperature([0.3, 0.7], [False, True]) == pytest.approx(0.01)


def test_detections_are_judged_by_maps_matching():
    truth = segment_table("u", [0.0, 5.0], [1.0, 6.0], "A")
    found = segment_table("u", [0.0, 0.0, 5.0], [1.0, 1.0, 6.0], "A", score=[0.99, 0.98, 0.97])
    result = calibration(truth, found)
    assert result["bins"][-1]["count"] == 3
    assert result["bins"][-1]["precision"] == pytest.approx(2 / 3)  # the second is a double
    assert result["ece"] == pytest.approx(0.98 - 2 / 3)
    empty = calibration(truth, segment_table(score=[]))
    assert (empty["ece"], empty["bins"][0]["score"]) == (None, None)
    mended = found.assign(score=temper(found["score"].to_numpy(), detection_temperature(truth, found)))
    assert calibration(truth, mended)["ece"] < result["ece"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability([1.2], [True]), r"values in \[0, 1\], found 1.2"),
        (lambda: fit_temperature([np.nan], [True]), "found nan"),
        (lambda: reliability([0.2, 0.3], [True]), "hits: expected one for each"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
