import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from balletal.errors import InputError
from balletal.segments import segment_table
from schemas.arrow import DETECTIONS, TAGGED_DETECTIONS
from workflows.export import main


@pytest.fixture
def export():
    app = typer.Typer()
    app.command()(main)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def detections(tmp_path):
    table = segment_table(["u", "v", "u"], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0], ["A", "B", "A"], score=[0.5, 0.25, 0.75])
    path = tmp_path / "detections.parquet"
    pq.write_table(pa.Table.from_pandas(table.assign(bundle="abc"), schema=DETECTIONS, preserve_index=False), path)
    return path


def test_json_csv_and_back(tmp_path, export, detections):
    assert export(detections, "--to", "json", "--out", tmp_path / "a.json").exit_code == 0
    data = json.loads((tmp_path / "a.json").read_text())
    assert [item["score"] for item in data["results"]["u"]] == [0.75, 0.5]
    assert export(tmp_path / "a.json", "--to", "csv", "--out", tmp_path / "a.csv").exit_code == 0
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "video,start,end,label,score",
        "u,0.0,1.0,A,0.5",
        "u,2.0,3.0,A,0.75",
        "v,1.0,2.0,B,0.25",
    ]


def test_tags_stay_with_their_detections(tmp_path, export):
    tags = [["Backwards", "Slow"], [], ["Backwards"]]
    table = segment_table("u", [0.0, 1.0, 2.0], [1.0, 2.0, 3.0], "A", score=[0.5, 0.25, 0.75], bundle=["abc"] * 3)
    path = tmp_path / "detections.parquet"
    table = pa.Table.from_pandas(table.assign(tags=tags), schema=TAGGED_DETECTIONS, preserve_index=False)
    pq.write_table(table, path)
    export(path, "--to", "json", "--out", tmp_path / "a.json")
    export(tmp_path / "a.json", "--to", "csv", "--out", tmp_path / "a.csv")
    export(tmp_path / "a.csv", "--to", "json", "--out", tmp_path / "b.json")
    written = [json.loads((tmp_path / name).read_text())["results"]["u"] for name in ("a.json", "b.json")]
    assert written[0] == written[1]
    assert [item["tags"] for item in written[0]] == [["Backwards"], ["Backwards", "Slow"], []]
    assert (tmp_path / "a.csv").read_text().splitlines()[:3] == [
        "video,start,end,label,score,tags",
        "u,0.0,1.0,A,0.5,Backwards;Slow",
        "u,1.0,2.0,A,0.25,",
    ]
    export(path, "--to", "vtt", "--out", tmp_path / "a.vtt")
    lines = (tmp_path / "a.vtt").read_text().splitlines()
    assert [line for line in lines if line.startswith("A")] == ["A (Backwards, Slow) 50%", "A 25%", "A (Backwards) 75%"]


def test_subtitles(tmp_path, export, detections):
    done = export(detections, "--to", "vtt", "--out", tmp_path / "out", "--min-score", 0.5)
    assert "2 detections of 2 videos" in done.stderr
    assert "A 75%" in (tmp_path / "out" / "u.vtt").read_text()
    assert (tmp_path / "out" / "v.vtt").read_text() == "WEBVTT\n"


def test_for_editors_and_annotation_tools(tmp_path, export, detections):
    for to in ("srt", "eaf", "otio"):
        assert export(detections, "--to", to, "--out", tmp_path / to).exit_code == 0
        assert sorted(path.name for path in (tmp_path / to).iterdir()) == [f"u.{to}", f"v.{to}"]
    with pytest.raises(InputError, match="a file for 2 videos"):
        export(detections, "--to", "srt", "--out", tmp_path / "one.srt")
    assert export(detections, "--to", "label-studio", "--out", tmp_path / "tasks.json").exit_code == 0
    assert [task["data"]["video"] for task in json.loads((tmp_path / "tasks.json").read_text())] == ["u", "v"]


def test_no_detections_is_a_result(tmp_path, export):
    (tmp_path / "a.json").write_text('{"results": {"u": []}}')
    assert export(tmp_path / "a.json", "--to", "json", "--out", tmp_path / "b.json").exit_code == 0
    assert json.loads((tmp_path / "b.json").read_text())["results"] == {"u": []}


def test_bad_input(tmp_path, export, detections):
    assert export(detections, "--to", "docx", "--out", tmp_path / "x").exit_code == 2
    (tmp_path / "gt.csv").write_text("video,start,end,label\nu,0,1,A\n")
    with pytest.raises(InputError, match="scores"):
        export(tmp_path / "gt.csv", "--to", "json", "--out", tmp_path / "x")
