"""Label sets by name and from files."""

from pathlib import Path

import pytest

from balletal.errors import InputError
from balletal.labels import LabelSet


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', '{"name": "x", "labels": [{"id": 0}]}'])
def test_a_malformed_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"mine\.json: expected a label set"):
        LabelSet.load(str(path))


def test_a_file_of_the_shipped_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"name": "mine", "labels": [{"id": 1, "name": "b"}, {"id": 0, "name": "a"}]}')
    assert LabelSet.load(str(path)) == LabelSet("mine", ("a", "b"))


def test_sides() -> None:
    assert LabelSet.load("annchor-coarse").mirrored == {}
    fine = LabelSet.load("annchor-fine")
    assert len(fine.mirrored) == 16
    assert fine.mirrored["BalanceDCRight"] == "BalanceDCLeft"
    assert {fine.to_coarse[a] == fine.to_coarse[b] for a, b in fine.mirrored.items()} == {True}
    assert LabelSet("alone", ("TurnRight", "Jump")).mirrored == {}
