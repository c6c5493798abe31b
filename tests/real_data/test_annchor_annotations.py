"""The published annotations of AnnChor: two forms of the same segments, with the faults they are known for."""

from collections import Counter

import pytest

from balletal.annotations import cleaning_report, make_split, read_annotations, usable_segments
from balletal.labels import LabelSet

pytestmark = pytest.mark.real_data
COARSE = LabelSet.load("annchor-coarse")
# The training part: 816 of the 1020 videos.
VIDEOS, SEGMENTS, BACKWARDS = 816, 19_841, 768


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "annchor" / "Annotation Files"


@pytest.fixture(scope="module")
def csv(folder):
    return read_annotations(str(folder / "CSV Original Annotation Files"), COARSE)


@pytest.fixture(scope="module")
def td(folder):
    return read_annotations(str(folder / "Processed Model JSON Annotation Files" / "AnnChor1000-TD.json"), COARSE)


def multiset(table):
    return Counter(table[["video_id", "label", "start", "end"]].itertuples(index=False, name=None))


def test_csv_and_json_are_the_same_multiset(csv, td):
    """To the last digit: no rounding."""
    assert multiset(csv.segments) == multiset(td.segments)
    assert len(csv.segments) == len(td.segments) == SEGMENTS
    assert set(csv.videos["video_id"]) == set(td.videos["video_id"])
    assert len(td.videos) == VIDEOS


def test_rows_of_the_csv_that_are_no_segment(csv):
    assert Counter(problem.kind for problem in csv.problems) == {"empty": 3, "no-time": 1}
    (timeless,) = (problem for problem in csv.problems if problem.kind == "no-time")
    assert (timeless.where.endswith("DAA.csv"), timeless.row) == (True, 97)
    assert set(csv.tags["label"]) == {"Backwards"}
    assert len(csv.tags) == BACKWARDS
    assert csv.videos["solo"].value_counts().to_dict() == {True: 708, False: 105}


def test_wrapped_files_are_read_whole(csv):
    """80 videos of the whole data set stand in files that a spreadsheet wrapped; 64 of them in this part."""
    wrapped = csv.segments["video_id"].str[:3].isin(["AUR", "BRO", "LA3", "LUC"])
    assert csv.segments.loc[wrapped, "video_id"].nunique() == 64


def test_cleaning_report(csv, td):
    kinds = [Counter(problem.kind for problem in cleaning_report(part, COARSE)) for part in (csv, td)]
    assert kinds[0] == {"empty": 3, "no-time": 1, "zero-length": 2, "overlap": 48}
    assert kinds[1] == {"zero-length": 1, "out-of-range": 1, "beyond-duration": 8, "overlap": 48}


def test_all_but_one_segment_can_be_learnt(td):
    table, dropped = usable_segments(td, COARSE)
    assert dropped == {"zero-length": 1}
    assert len(table) == SEGMENTS - 1
    assert set(table["label"]) == set(COARSE.labels)


def test_via_projects_agree_with_their_csv_exports(folder, csv):
    projects = read_annotations(str(folder / "JSON VIA Annotator Files"), COARSE)
    ours = csv.select(projects.videos["video_id"])
    assert multiset(projects.segments) == multiset(ours.segments)
    assert multiset(projects.tags) == multiset(ours.tags)
    assert Counter(problem.kind for problem in projects.problems) == {"no-time": 3}


def test_splits(td):
    assert set(make_split(td, "published").videos.values()) == {"training"}
    assert Counter(make_split(td, "video").videos.values()) == {"training": 652, "validation": 82, "testing": 82}
    by_variation = make_split(td, "variation").videos
    subsets = {(video_id[:3], subset) for video_id, subset in by_variation.items()}
    assert Counter(subset for _, subset in subsets) == {"training": 41, "validation": 5, "testing": 5}
