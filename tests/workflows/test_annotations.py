import json

import pytest
from typer.testing import CliRunner

from balletal.errors import InputError
from workflows.annotations import app

GOOD = "video,start,end,label\nACM0000,1,2,PirouetteLeft\nACM0000,3,4,Courus\nLA10001,0,0.5,Backwards\n"
BAD = GOOD + "ACM0000,5,5,Courus\nACM0000,6,,Courus\nACM0000,1.5,2.5,Corus\nLA10001,0,0.5,Courus\n"


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.csv"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(BAD)
    return path


def test_stats(bad):
    result = json.loads(call("stats", bad, "--labels", "annchor-coarse", "--json").stdout)
    assert (result["videos"], result["segments"], result["tags"]) == (2, 5, {"Backwards": 1})
    assert result["classes"]["Courus"] == {"segments": 3, "videos": 2, "p5_s": 0.05, "median_s": 0.5, "p95_s": 0.95}
    assert result["problems"] == {"no-time": 1, "unknown-label": 1, "zero-length": 1, "overlap": 1}
    text = call("stats", bad).stdout
    assert "5 segments in 2 videos" in text
    assert "1 no-time" in text


def test_validate_fails_on_errors_alone(good, bad):
    assert call("validate", good).exit_code == 0
    good.write_text(GOOD + "ACM0000,1,2,PirouetteLeft\n")
    done = call("validate", good)
    assert (done.exit_code, "warning: duplicate (1)" in done.stdout) == (0, True)
    done = call("validate", bad, "--json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert (result["errors"], result["warnings"], result["label_set"]) == (3, 1, "annchor-fine")
    no_time = next(problem for problem in result["problems"] if problem["kind"] == "no-time")
    assert (no_time["where"], no_time["row"], no_time["severity"]) == (str(bad), 6, "error")
    text = call("validate", bad).stdout
    assert f"{bad}:6" in text
    assert "Corus 1.5 - 2.5 s" in text


@pytest.mark.parametrize(("to", "name"), [("activitynet", "out.json"), ("csv", "out.csv"), ("vtt", "subtitles")])
def test_convert(tmp_path, bad, to, name):
    out = tmp_path / "new" / name
    done = call("convert", bad, "--to", to, "--out", out, "--labels", "annchor-coarse")
    assert done.exit_code == 0
    assert f"{bad}:6 no-time" in done.stderr
    if to == "vtt":
        assert "1 segments cannot be subtitles" in done.stderr
        assert "Pirouette\n" in (out / "ACM0000.vtt").read_text()
        return
    again = json.loads(call("stats", out, "--json").stdout)
    assert (again["segments"], again["tags"]) == (5, {"Backwards": 1})
    assert again["classes"]["Pirouette"]["segments"] == 1


def test_convert_to_via(tmp_path, good):
    for out in ("via", "all.csv"):
        assert call("convert", good, "--to", "via", "--out", tmp_path / out).exit_code == 0
        again = json.loads(call("stats", tmp_path / out, "--json").stdout)
        assert (again["segments"], again["tags"]) == (2, {"Backwards": 1})
        assert set(again["classes"]) == {"PirouetteLeft", "Courus"}
    assert sorted(path.name for path in (tmp_path / "via").iterdir()) == ["ACM.csv", "LA1.csv"]
    scored = tmp_path / "scored.csv"
    scored.write_text("video,start,end,label,score\nu,1,2,Courus,0.5\n")
    assert "no scores" in call("convert", scored, "--to", "via", "--out", tmp_path / "u.csv").stderr


def test_sheet(tmp_path, good, make_video):
    videos = tmp_path / "videos"
    make_video(videos / "ACM0000.mp4", 5)
    out = tmp_path / "sheet.png"
    done = call("sheet", good, "--videos", videos, "--out", out)
    assert done.exit_code == 0
    assert f"not in {videos}: LA10001" in done.stderr
    assert "in none of these videos: Backwards" in done.stderr
    assert "2 steps of 2 classes" in done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.png"
    call("sheet", good, "--videos", videos, "--out", again)
    assert again.read_bytes() == out.read_bytes()
    (videos / "ACM0000.mp4").write_bytes(b"no video")
    done = call("sheet", good, "--videos", videos, "--out", again)
    assert (done.exit_code, "not shown" in done.stderr) == (3, True)
    with pytest.raises(InputError, match="a video with a segment"):
        call("sheet", good, "--videos", make_video(tmp_path / "other" / "x.mp4", 1), "--out", out)


def test_convert_keeps_scores(tmp_path):
    (tmp_path / "x.csv").write_text("video,start,end,label,score\nu,1,2,A,0.5\n")
    call("convert", tmp_path / "x.csv", "--to", "activitynet", "--out", tmp_path / "x.json")
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["results"] == {"u": [{"label": "A", "segment": [1.0, 2.0], "score": 0.5}]}


def test_split(tmp_path, good):
    out = tmp_path / "split.json"
    done = call("split", good, "--by", "variation", "--seed", 3, "--out", out, "--json")
    assert json.loads(done.stdout)["counts"] == {"training": 2, "validation": 0, "testing": 0}
    assert json.loads(out.read_text()) == {
        "by": "variation",
        "seed": 3,
        "videos": {"ACM0000": "training", "LA10001": "training"},
    }
    with pytest.raises(InputError, match="subset"):
        call("split", good, "--by", "published", "--out", out)


def test_bad_use(tmp_path, good):
    assert call("split", good, "--by", "moon", "--out", tmp_path / "x").exit_code == 2
    assert call("convert", good, "--to", "docx", "--out", tmp_path / "x").exit_code == 2
    with pytest.raises(InputError, match="label set 'ballet'"):
        call("stats", good, "--labels", "ballet")
    with pytest.raises(InputError, match="nothing there"):
        call("stats", tmp_path / "missing.json")
