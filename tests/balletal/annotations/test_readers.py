"""Every format that is read, with the faults that real files have."""

import json
import math
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from balletal.annotations import read_annotations
from balletal.annotations.via import video_id_of
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.segments import segment_table

COARSE = LabelSet.load("annchor-coarse")
VIA_HEAD = (
    "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n"
    "# CSV_HEADER = metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata\n"
)


def via_row(video, start, end, metadata, number=1):
    source = json.dumps([f"file:///C:\\Annotation\\{video[:3]}\\{video}.mp4"]).replace('"', '""')
    values = json.dumps(metadata, separators=(",", ":")).replace('"', '""')
    return f'"{number}_x","{source}",{start},{end},"{values}"'


def wrapped(row):
    """A row as a spreadsheet saves it that took it for one field."""
    return '"' + row.removeprefix('"').replace('"', '""').replace('_x""', "_x", 1) + '"'


VIA_ROWS = [
    via_row("ACM0000", "", "", {"OnlyOneDancer?": "0"}),
    via_row("ACM0000", 2.01, 2.91, {"BalletSteps": "15"}),
    via_row("ACM0000", 3.5, 3.5, {"BalletSteps": "8"}),
    via_row("ACM0000", 3.0, 4.0, {"BalletSteps": "19"}),
    via_row("ACM0001", "", "", {"OnlyOneDancer?": "1"}),
    via_row("ACM0001", "", "", {}),
    via_row("ACM0001", 25.64, "", {"BalletSteps": "0"}),
    via_row("ACM0001", 1.0, 2.0, {"BalletSteps": "25"}),
]


def rows(table):
    return list(table[["video_id", "start", "end", "label"]].itertuples(index=False, name=None))


def kinds(annotations):
    return Counter(problem.kind for problem in annotations.problems)


@pytest.mark.parametrize("spreadsheet", [False, True])
def test_via_csv(tmp_path, spreadsheet):
    text = VIA_HEAD + "".join(row + "\n" for row in VIA_ROWS)
    if spreadsheet:
        text = (VIA_HEAD + "".join(wrapped(row) + "\n" for row in VIA_ROWS)).replace("\n", "\r\n")
        assert '"1_x,""[""""file:' in text
    path = tmp_path / "ACM.csv"
    path.write_bytes(text.encode())
    got = read_annotations(str(path))
    assert rows(got.segments) == [
        ("ACM0000", 2.01, 2.91, "CabrioleDerriereRight"),
        ("ACM0000", 3.5, 3.5, "PirouetteRight"),
        ("ACM0001", 1.0, 2.0, "25"),
    ]
    assert rows(got.tags) == [("ACM0000", 3.0, 4.0, "Backwards")]
    assert list(got.videos["video_id"]) == ["ACM0000", "ACM0001"]
    assert list(got.videos["solo"]) == [True, False]
    assert got.videos["duration"].isna().all()
    assert [(p.where, p.row, p.kind) for p in got.problems] == [(str(path), 8, "empty"), (str(path), 9, "no-time")]


def test_fine_names_become_coarse(tmp_path):
    path = tmp_path / "ACM.csv"
    path.write_text(VIA_HEAD + "\n".join(VIA_ROWS))
    got = read_annotations(str(path), COARSE)
    assert list(got.segments["label"]) == ["CabrioleDerriere", "Pirouette", "25"]
    assert list(got.tags["label"]) == ["Backwards"]


def test_newer_via_csv_holds_times_as_a_list(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata\n"
        '"1_a","[""my%20dance.mov""]",0,"[1.5,2.25]","[]","{""Step"":""Jete""}"\n'
        '"1_b","[""my%20dance.mov""]",0,"[1.5]","[]","{""Step"":""Jete""}"\n'
        '"1_c","[""my%20dance.mov""]",0,"[1,2,3]","[]","{""Step"":""Jete""}"\n'
    )
    got = read_annotations(str(path))
    assert rows(got.segments) == [("my dance", 1.5, 2.25, "Jete")]
    assert kinds(got) == {"no-time": 1, "bad-time": 1}


def test_broken_via_rows_are_told_by_line(tmp_path):
    path = tmp_path / "x.csv"
    broken = [
        '"1_a","[""a.mp4""]",1.0',
        '"1_a","not json",1.0,2.0,"{}"',
        '"1_a","[]",1.0,2.0,"{""BalletSteps"":""1""}"',
        '"1_a","[""a.mp4""]",one,2.0,"{""BalletSteps"":""1""}"',
        '"1_a","[""a.mp4""]",nan,2.0,"{""BalletSteps"":""1""}"',
        "",
        '"1_a","[""a.mp4""]",1.0,2.0,"[]"',
    ]
    path.write_text(VIA_HEAD + "\n".join(broken))
    got = read_annotations(str(path))
    assert got.segments.empty
    assert [(p.row, p.kind) for p in got.problems] == [
        (3, "malformed"),
        (4, "malformed"),
        (5, "no-video"),
        (6, "bad-time"),
        (7, "bad-time"),
        (9, "malformed"),
    ]


def via_project(metadata):
    return {
        "project": {"pname": "x"},
        "config": {},
        "attribute": {
            "1": {"aname": "BalletSteps", "options": {"0": "Courus", "1": "Backwards"}},
            "2": {"aname": "OnlyOneDancer?", "options": {"0": "Yes", "1": "No"}},
        },
        "file": {"7": {"fname": "file:///C:\\x\\LA10001.mp4"}, "8": {"fname": "/home/x/LA10002.mkv"}},
        "metadata": metadata,
        "view": {"1": {"fid_list": ["7"]}, "2": {"fid_list": ["8"]}},
    }


def test_via_project(tmp_path):
    path = tmp_path / "x.json"
    metadata = {
        "1_a": {"vid": "1", "z": [], "av": {"2": "1"}},
        "1_b": {"vid": "1", "z": [1.5, 2.0], "av": {"1": "0"}},
        "1_c": {"vid": "1", "z": [1.0, 3.0], "av": {"1": "1"}},
        "1_d": {"vid": "1", "z": [4.0], "av": {"1": "0"}},
        "1_e": {"vid": "9", "z": [4.0, 5.0], "av": {"1": "0"}},
        "1_f": {"vid": "1", "z": [4.0, 5.0], "av": {}},
        "1_g": {"vid": "1", "z": None, "av": {}},
    }
    path.write_text(json.dumps(via_project(metadata)))
    got = read_annotations(str(path))
    assert rows(got.segments) == [("LA10001", 1.5, 2.0, "Courus")]
    assert rows(got.tags) == [("LA10001", 1.0, 3.0, "Backwards")]
    assert list(got.videos["video_id"]) == ["LA10001", "LA10002"]
    assert list(got.videos["solo"]) == [False, None]
    assert [(p.row, p.kind) for p in got.problems] == [(4, "no-time"), (5, "no-video"), (6, "empty"), (7, "malformed")]


def test_activitynet_ground_truth(tmp_path):
    path = tmp_path / "gt.json"
    database = {
        "u": {
            "subset": "Validation",
            "duration": 10.5,
            "fps": 25.0,
            "annotations": [
                {"label": "Courus", "segment": [1.0, 2.0], "label_id": 1},
                {"label": "Courus", "segment(frames)": [50, 75]},
                {"label": "Courus"},
                {"label": "Courus", "segment": [1.0]},
                {"label": "Courus", "segment": ["x", 2.0]},
                {"label": None, "segment": [1.0, 2.0]},
                "no object",
            ],
        },
        "nothing": {"duration": -1, "annotations": []},
        "broken": {"annotations": "none"},
    }
    path.write_text(json.dumps({"database": database}))
    got = read_annotations(str(path))
    assert rows(got.segments) == [("u", 1.0, 2.0, "Courus"), ("u", 2.0, 3.0, "Courus")]
    assert got.segments["label_id"].isna().tolist() == [False, True]
    assert "label_id" not in read_annotations(str(path), COARSE).segments
    assert list(got.videos["video_id"]) == ["u", "nothing", "broken"]
    assert got.durations == {"u": 10.5}
    assert kinds(got) == {"no-time": 1, "bad-time": 2, "no-label": 1, "malformed": 3}
    assert len(got.select(subset="val").segments) == 2
    assert len(got.select(video_ids=["nothing"]).segments) == 0
    with pytest.raises(InputError, match="validation"):
        got.select(subset="testing")


def test_activitynet_results(tmp_path):
    path = tmp_path / "pred.json"
    items = [{"label": "A", "segment": [1, 2], "score": 0.5}, {"label": "A", "segment": [1, 2]}]
    path.write_text(json.dumps({"version": "", "results": {"u": items, "v": []}, "external_data": {}}))
    got = read_annotations(str(path))
    assert list(got.segments["score"]) == [0.5]
    assert list(got.videos["video_id"]) == ["u", "v"]
    assert kinds(got) == {"no-score": 1}
    path.write_text(json.dumps({"results": {"u": []}}))
    assert list(read_annotations(str(path)).segments.columns) == ["video_id", "start", "end", "label", "score"]


@pytest.mark.parametrize("column", ["video", "video_id"])
def test_plain_csv(tmp_path, column):
    path = tmp_path / "x.csv"
    lines = [f"\ufeff{column},start, end ,label", "u,1,2.5,Grand jeté", 'folder/v.MP4,3,4,"a, b"', ""]
    lines += ["u,,2,A", "u,1,2", ",1,2,A", ""]
    path.write_bytes("\r\n".join(lines).encode())
    got = read_annotations(str(path))
    assert rows(got.segments) == [("u", 1.0, 2.5, "Grand jeté"), ("v", 3.0, 4.0, "a, b")]
    assert [(p.row, p.kind) for p in got.problems] == [(5, "no-time"), (6, "malformed"), (7, "no-video")]


def test_csv_of_detections(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("video,start,end,label,score\nu,1,2,A,0.25\nu,1,2,A,high\nu,1,2,A,nan\n")
    got = read_annotations(str(path))
    assert got.segments["score"].iloc[0] == 0.25
    assert math.isnan(got.segments["score"].iloc[1])  # a number in the file's terms; metrics refuse it by name
    assert kinds(got) == {"no-score": 1}


def test_parquet(tmp_path):
    path = tmp_path / "detections.parquet"
    table = segment_table(["u", "v"], [0.0, 1.0], [1.0, 2.0], ["A", "B"], score=[0.5, 0.25])
    pq.write_table(pa.Table.from_pandas(table.assign(bundle="abc"), preserve_index=False), path)
    got = read_annotations(str(path))
    assert rows(got.segments) == rows(table)
    assert list(got.segments["score"]) == [0.5, 0.25]
    assert list(got.segments["bundle"]) == ["abc", "abc"]
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(InputError, match="no video_id"):
        read_annotations(str(path))


def test_folder_of_files(tmp_path):
    (tmp_path / "b.csv").write_text("video,start,end,label\nb,1,2,A\n")
    (tmp_path / "a.csv").write_text("video,start,end,label\na,1,2,A\nb,5,6,A\n")
    (tmp_path / "notes.txt").write_text("no annotations")
    got = read_annotations(str(tmp_path))
    assert rows(got.segments) == [("a", 1.0, 2.0, "A"), ("b", 5.0, 6.0, "A"), ("b", 1.0, 2.0, "A")]
    assert list(got.videos["video_id"]) == ["a", "b"]
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="found both"):
        read_annotations(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("x.json", b"[]", "a list"),
        ("x.json", b'{"a": 1}', "'a'"),
        ("x.json", b'{"database": ', "expected JSON"),
        ("x.csv", b"video;start;end;label\n", "video;start"),
        ("x.csv", b" \n", "an empty file"),
        ("x.csv", b"video,start,end,label\n\xff\xfe", "no UTF-8"),
        ("x.csv", b'video,start,end,label\n"' + b"x" * 200_000 + b'",1,2,A', "line 2"),
        ("x.mp4", b"\0\0\0\x18ftypmp42", "no UTF-8|a first line"),
        ("x.parquet", b"PAR1 but no more", "Parquet"),
        ("x.json", json.dumps(via_project({}) | {"view": {"1": {}}}).encode(), "KeyError"),
    ],
)
def test_unknown_content_is_named(tmp_path, name, content, found):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=found) as error:
        read_annotations(str(path))
    assert str(path) in str(error.value)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="nothing there"):
        read_annotations(str(tmp_path / "missing.csv"))
    with pytest.raises(InputError, match="found none"):
        read_annotations(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "video_id"),
    [("file:///C:\\a\\b.c.mp4", "b.c"), ("s3://bucket/x/LA10001.mp4", "LA10001"), ("plain", "plain")],
)
def test_video_ids(path, video_id):
    assert video_id_of(path) == video_id
