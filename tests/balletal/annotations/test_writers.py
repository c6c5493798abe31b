"""What is written reads back the same."""

import dataclasses
import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal.annotations import (
    Annotations,
    read_annotations,
    video_table,
    write_activitynet,
    write_csv,
    write_results,
    write_via_csv,
    write_webvtt,
)
from balletal.annotations.formats import webvtt
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.segments import segment_table

COARSE = LabelSet.load("annchor-coarse")


@pytest.fixture
def annotations():
    segments = segment_table(["u", "u", "v"], [0.1 + 0.2, 5.0, 1.0], [2.0, 5.0, 1e-4], ["Courus", "GrandJete", "Other"])
    videos = {
        "u": {"duration": 57.76, "fps": 25.0, "subset": "training", "solo": True},
        "v": {"subset": "testing"},
        "empty": {"duration": 3.0},
    }
    return Annotations(segments, video_table(videos), segment_table("u", [1.0], [2.0], "Backwards"))


def test_activitynet_round_trip(tmp_path, annotations):
    path = str(tmp_path / "deep" / "gt.json")
    write_activitynet(path, annotations, COARSE)
    got = read_annotations(path)
    pd.testing.assert_frame_equal(got.segments.drop(columns="label_id"), annotations.segments)
    assert got.segments["label_id"].tolist() == [1, 4, pd.NA]
    pd.testing.assert_frame_equal(got.videos, annotations.videos)
    pd.testing.assert_frame_equal(got.tags, annotations.tags)
    assert got.problems == []
    assert got.taxonomy == COARSE.labels
    # The ids that were read are written again without being told the set.
    write_activitynet(path, got)
    pd.testing.assert_frame_equal(read_annotations(path).segments, got.segments)


def test_activitynet_form(tmp_path, annotations):
    path = tmp_path / "gt.json"
    write_activitynet(str(path), annotations, COARSE)
    entry = json.loads(path.read_text())["database"]["u"]
    assert entry["annotations"][1] == {
        "label": "GrandJete",
        "segment": [5.0, 5.0],
        "segment(frames)": [125.0, 125.0],
        "label_id": 4,
    }
    assert [tag["label"] for tag in entry["tags"]] == ["Backwards"]
    assert {key: entry[key] for key in ("duration", "fps", "subset")} == {
        "duration": 57.76,
        "fps": 25.0,
        "subset": "training",
    }


def test_results_round_trip(tmp_path):
    path = tmp_path / "pred.json"
    found = segment_table(["v", "u", "u"], [1.0, 2.0, 0.0], [2.0, 3.0, 1.0], "A", score=[0.5, 0.25, 0.75])
    write_results(str(path), found, video_ids=["silent", "u"], external_data={"bundle": "abc"})
    data = json.loads(path.read_text())
    assert list(data["results"]) == ["silent", "u", "v"]
    assert data["results"]["u"][0] == {"label": "A", "segment": [0.0, 1.0], "score": 0.75}
    assert data["external_data"] == {"bundle": "abc"}
    got = read_annotations(str(path))
    order = ["video_id", "start"]
    pd.testing.assert_frame_equal(
        got.segments.sort_values(order, ignore_index=True), found.sort_values(order, ignore_index=True)
    )
    assert list(got.videos["video_id"]) == ["silent", "u", "v"]


texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs")), min_size=1).filter(lambda t: t != "Backwards")
seconds = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, seconds, seconds, texts), max_size=5))
def test_csv_round_trip(tmp_path_factory, rows):
    path = str(tmp_path_factory.getbasetemp() / "round-trip.csv")
    rows = [(video, *rest) for video, *rest in rows if not video.lower().endswith((".mp4", ".mov", ".ts"))]
    table = segment_table(*zip(*rows, strict=True)) if rows else segment_table()
    write_csv(path, Annotations(table, video_table({})))
    got = read_annotations(path)
    assert got.problems == []
    columns = ["video_id", "start", "end"]
    expected = table.assign(label=table["label"].str.strip()).sort_values(columns, kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(got.segments, expected)


def test_csv_holds_tags_as_rows(tmp_path, annotations):
    path = tmp_path / "x.csv"
    write_csv(str(path), annotations)
    assert path.read_text().splitlines()[0] == "video,start,end,label"
    got = read_annotations(str(path))
    pd.testing.assert_frame_equal(got.segments, annotations.segments)
    pd.testing.assert_frame_equal(got.tags, annotations.tags)


def test_via_csv_is_as_annchor_published_it(tmp_path):
    segments = segment_table(["COL0000"] * 2, [1.714, 0.76], [2.234, 1.76], ["PirouetteRight", "TourEnLair"])
    tags = segment_table("COL0000", [0.76], [2.234], "Backwards")
    videos = video_table({"COL0000": {"solo": True}, "COL0001": {"solo": False}, "ACM0000": {}})
    write_via_csv(str(tmp_path), Annotations(segments, videos, tags))
    assert {path.name for path in tmp_path.iterdir()} == {"ACM.csv", "COL.csv"}
    lines = (tmp_path / "COL.csv").read_text().splitlines()
    assert lines[:2] == [
        "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)",
        "# CSV_HEADER = metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata",
    ]
    rest = [line.partition(",")[2] for line in lines[2:]]
    source = '"[""file:///COL/COL0000.mp4""]"'
    assert rest == [
        source + ',,,"{""OnlyOneDancer?"":""0""}"',
        source + ',0.76,1.76,"{""BalletSteps"":""14""}"',
        source + ',0.76,2.234,"{""BalletSteps"":""19""}"',
        source + ',1.714,2.234,"{""BalletSteps"":""8""}"',
        '"[""file:///COL/COL0001.mp4""]",,,"{""OnlyOneDancer?"":""1""}"',
    ]
    assert len({line.partition(",")[0] for line in lines[2:]}) == 5


names = texts.filter(lambda t: "/" not in t and "\\" not in t and t.strip(".") and not t.isdecimal())


@settings(deadline=None)
@given(st.lists(st.tuples(names, seconds, seconds, names), max_size=5), st.sampled_from([True, False, None]))
def test_via_csv_round_trip(tmp_path_factory, rows, solo):
    path = str(tmp_path_factory.getbasetemp() / "round-trip-via.csv")
    ids = sorted({row[0] for row in rows} | {"AAA0000"})
    rows = sorted(rows, key=lambda row: row[:3])
    table = segment_table(*zip(*rows, strict=True)) if rows else segment_table()
    write_via_csv(path, Annotations(table, video_table({video: {"solo": solo} for video in ids})))
    got = read_annotations(path)
    assert got.problems == []
    pd.testing.assert_frame_equal(got.segments, table.assign(label=table["label"].str.strip()))
    known = ids if solo is not None else sorted(set(table["video_id"]))
    assert [(v["video_id"], v["solo"]) for v in got.videos.to_dict("records")] == [(video, solo) for video in known]


def test_via_csv_refuses_what_would_read_back_as_something_else(tmp_path):
    numbered = Annotations(segment_table("u", [0.0], [1.0], "8"), video_table({"u": {}}))
    with pytest.raises(InputError, match=r"label '8'.*found PirouetteRight"):
        write_via_csv(str(tmp_path / "x.csv"), numbered)
    nested = Annotations(segment_table("a/b", [0.0], [1.0], "A"), video_table({"a/b": {}}))
    with pytest.raises(InputError, match="video 'a/b'"):
        write_via_csv(str(tmp_path / "x.csv"), nested)
    empty = Annotations(segment_table(), video_table({}))
    with pytest.raises(InputError, match="a video to write a file of"):
        write_via_csv(str(tmp_path / "via"), empty)
    assert list(tmp_path.iterdir()) == []
    write_via_csv(str(tmp_path / "x.csv"), empty)
    assert read_annotations(str(tmp_path / "x.csv")).videos.empty


def test_via_csv_of_a_video_whose_name_begins_with_a_dot_is_read_back(tmp_path):
    write_via_csv(str(tmp_path), Annotations(segment_table(".hidden", [0.0], [1.0], "A"), video_table({".hidden": {}})))
    assert list(read_annotations(str(tmp_path)).segments["video_id"]) == [".hidden"]


def test_subtitles():
    table = segment_table("u", [3661.5, 1.0], [3662.0, 2.0004], ["a <b> & c", "A\nB"], score=[0.875, 0.5])
    text, left_out = webvtt(table)
    assert text == (
        "WEBVTT\n\n1\n00:00:01.000 --> 00:00:02.000\nA B 50%\n\n"
        "2\n01:01:01.500 --> 01:01:02.000\na &lt;b&gt; &amp; c 88%\n"
    )
    assert left_out == 0


def test_what_cannot_be_a_subtitle_is_counted():
    table = segment_table("u", [1.0, 2.0, -2.0, -1.0], [1.0, 1.5, -1.0, 1.0], "A")
    text, left_out = webvtt(table)
    assert left_out == 3
    assert "00:00:00.000 --> 00:00:01.000" in text


def test_subtitles_of_many_videos_are_a_folder(tmp_path, annotations):
    assert write_webvtt(str(tmp_path / "out"), annotations) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["empty.vtt", "u.vtt", "v.vtt"]
    assert (tmp_path / "out" / "u.vtt").read_text().count("-->") == 2
    with pytest.raises(InputError, match="3 videos"):
        write_webvtt(str(tmp_path / "one.vtt"), annotations)
    write_webvtt(str(tmp_path / "one.vtt"), annotations.select(["u"]))
    assert (tmp_path / "one.vtt").is_file()


def test_a_video_id_cannot_lead_out_of_the_folder(tmp_path):
    table = segment_table("../../a", [0.0], [1.0], "A")
    annotations = Annotations(table, video_table({"../../a": {}}))
    write_webvtt(str(tmp_path / "out"), annotations)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["..%2F..%2Fa.vtt"]


def test_memory_file_system(annotations):
    write_activitynet("memory://test-writers/gt.json", annotations)
    assert len(read_annotations("memory://test-writers/gt.json").segments) == 3


def test_selecting_keeps_the_problems(annotations):
    chosen = dataclasses.replace(annotations, problems=["p"]).select(["v"])
    assert (list(chosen.videos["video_id"]), len(chosen.tags), chosen.problems) == (["v"], 0, ["p"])
