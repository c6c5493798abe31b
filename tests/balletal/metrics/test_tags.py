import numpy as np
import pytest

from balletal.errors import InputError
from balletal.metrics.tags import tag_metrics
from balletal.segments import segment_table

TRUTH = segment_table("u", [0.0, 10.0, 20.0, 30.0, 40.0], [2.0, 12.0, 22.0, 32.0, 42.0], "A").assign(
    tags=[["T"], ["T"], [], ["Other"], ["T"]]
)


def found(*tags):
    """The first four steps, and something where none is."""
    start = np.array([0.0, 10.0, 20.0, 30.0, 60.0])
    table = segment_table("u", start, start + 2, "A", score=[0.5, 0.9, 0.8, 0.7, 0.6])
    return table.assign(tags=list(tags))


def test_tags_count_where_a_step_is_found():
    got = tag_metrics(TRUTH, found(["T"], [], ["T"], [], ["T"]), ("T",))
    assert (got["tiou"], got["matched"]) == (0.5, 4)
    assert got["tags"] == {"T": {"annotated": 2, "told": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}}


def test_perfect_and_silent():
    perfect = tag_metrics(TRUTH, found(["T"], ["T"], [], [], []), ("T",))["tags"]["T"]
    assert (perfect["precision"], perfect["recall"], perfect["f1"]) == (1.0, 1.0, 1.0)
    silent = tag_metrics(TRUTH, found([], [], [], [], []), ("T",))["tags"]["T"]
    assert (silent["precision"], silent["recall"], silent["f1"]) == (None, 0.0, 0.0)
    none = tag_metrics(TRUTH, found([], [], [], [], []).iloc[:0], ("T",))
    assert none["tags"]["T"] == {"annotated": 0, "told": 0, "precision": None, "recall": None, "f1": None}


def test_tables_without_tags_are_refused():
    silent = found([], [], [], [], [])
    for truth, table in ((TRUTH.drop(columns="tags"), silent), (TRUTH, silent.drop(columns="tags"))):
        with pytest.raises(InputError, match="tags"):
            tag_metrics(truth, table, ("T",))
