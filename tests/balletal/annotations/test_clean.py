from balletal.annotations import Annotations, Problem, cleaning_report, closest_label_set, usable_segments, video_table
from balletal.annotations.table import ERRORS, WARNINGS
from balletal.labels import LabelSet
from balletal.segments import segment_table

LABELS = LabelSet("test", ("A", "B"), tags=("T",))
ROWS = [
    # start, end, label, kinds
    (1.0, 2.0, "A", set()),
    (1.0, 2.0, "A", {"duplicate"}),
    (1.5, 2.5, "B", {"overlap"}),
    (2.5, 3.0, "B", set()),
    (4.0, 4.0, "A", {"zero-length"}),
    (6.0, 5.0, "A", {"reversed"}),
    (7.0, 8.0, "C", {"unknown-label"}),
    (9.5, 10.5, "A", {"beyond-duration"}),
    (11.0, 12.0, "B", {"out-of-range"}),
    (-0.5, 0.5, "A", {"beyond-duration"}),
    (-2.0, -1.0, "A", {"out-of-range"}),
]


def made():
    start, end, label, _ = zip(*ROWS, strict=True)
    tags = segment_table("u", [1.0, 3.0], [2.5, 3.0], "T")
    return Annotations(
        segment_table("u", start, end, label),
        video_table({"u": {"duration": 10.0}}),
        tags,
        [Problem("file.csv", 3, "no-time", "said by the reader")],
    )


def test_every_kind_is_reported_once():
    report = cleaning_report(made(), LABELS)
    assert report[0] == Problem("file.csv", 3, "no-time", "said by the reader")
    by_row = {row: set() for row in range(len(ROWS))}
    for problem in report[1:-1]:
        assert problem.where == "u"
        assert problem.kind not in by_row[problem.row]
        by_row[problem.row].add(problem.kind)
    assert list(by_row.values()) == [kinds for *_, kinds in ROWS]
    assert (report[-1].kind, report[-1].row) == ("zero-length", 1)  # of the tags


def test_every_kind_has_a_severity():
    for problem in cleaning_report(made(), LABELS):
        assert (problem.kind in ERRORS) != (problem.kind in WARNINGS)
        assert problem.severity == ("error" if problem.kind in ERRORS else "warning")


def test_an_unknown_duration_is_no_fault():
    annotations = Annotations(segment_table("u", [1e6], [2e6], "A"), video_table({"u": {}}))
    assert cleaning_report(annotations, LABELS) == []


def test_segments_of_different_videos_do_not_overlap():
    segments = segment_table(["v", "u", "v"], [1.0, 1.0, 2.0], [2.0, 9.0, 3.0], "A")
    assert cleaning_report(Annotations(segments, video_table({})), LABELS) == []


def test_a_long_segment_is_remembered():
    segments = segment_table("u", [0.0, 1.0, 5.0], [10.0, 2.0, 6.0], "A")
    assert [p.row for p in cleaning_report(Annotations(segments, video_table({})), LABELS)] == [1, 2]


def test_usable_segments_are_counted_by_what_they_lack():
    table, dropped = usable_segments(made(), LABELS)
    assert dropped == {"unknown-label": 1, "reversed": 1, "zero-length": 1, "out-of-range": 2}
    assert len(table) == len(ROWS) - 5
    assert list(table.index) == list(range(len(table)))
    assert set(table["label"]) == {"A", "B"}


def test_closest_label_set():
    def closest(*labels):
        n = [0.0] * len(labels)
        return closest_label_set(Annotations(segment_table("u", n, n, labels), video_table({})))

    assert closest("Courus", "Pirouette").name == "annchor-coarse"
    assert closest("Courus", "PirouetteLeft").name == "annchor-fine"
    assert closest("Pirouette", "run", "jump") is None
    assert closest() is None
