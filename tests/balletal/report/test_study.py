import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from balletal.report.study import association, study_figure

TRIALS = pd.DataFrame(
    {
        "status": ["finished", "stopped", "stopped", "finished"],
        "average_map": [0.4, 0.1, 0.2, 0.3],
        "optim.lr": [0.004, 0.001, 0.002, 0.003],
        "decode.nms": ["hard", "linear", "linear", "hard"],
        "model.layers": [2, 2, 2, 2],
    }
)


def test_association_knows_order_and_groups() -> None:
    found = TRIALS["average_map"]
    assert association(TRIALS["optim.lr"], found) == pytest.approx(1)
    assert association(-TRIALS["optim.lr"], found) == pytest.approx(1)
    # Between the two choices lies 0.01 of a variance of 0.0125.
    assert association(TRIALS["decode.nms"], found) == pytest.approx(np.sqrt(0.8))
    assert association(TRIALS["model.layers"], found) == 0
    assert association(TRIALS["optim.lr"], found * 0) == 0
    assert association(TRIALS["optim.lr"][:1], found[:1]) == 0


def test_the_figure_has_a_panel_for_each_value_the_most_telling_first() -> None:
    progress = pd.DataFrame({"seconds": [1.0, 2.0, 5.0], "best": [0.1, 0.3, 0.4]})
    text = study_figure(TRIALS, ["model.layers", "decode.nms", "optim.lr"], ["optim.lr"], progress)
    root = ET.fromstring(text)
    assert root.get("aria-label", "").startswith("Average mAP of 4 trials")
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    titles = [word for word in words if word and ("(" in word or word == "best so far")]
    assert titles == ["best so far", "optim.lr  (1.00)", "decode.nms  (0.89)", "model.layers  (0.00)"]
    assert {"hard", "linear"} <= set(words)
