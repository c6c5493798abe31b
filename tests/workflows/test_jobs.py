import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from balletal.client import ServiceError
from balletal.errors import InputError
from tests.workflows.serve.whole import Whole

Balletal = Callable[..., Result]


def test_a_job_of_a_folder_from_submission_to_its_table(balletal: Balletal, clips: Path, tmp_path: Path) -> None:
    done = balletal("jobs", "submit", clips, "--wait", "--model", "fake", "--model", "other")
    assert done.exit_code == 0
    assert "localizing\n" in done.stderr
    assert "succeeded; 3 of 3 videos ok, 0 failed" in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert sorted({(row[0], row[1]) for row in rows}) == [
        (name, model) for name in ("a.mp4", "b.mp4", "long.mp4") for model in ("fake@2", "other@1")
    ]
    assert len(rows) == 12
    job_id = done.stderr.split()[1]
    every = json.loads(balletal("jobs", "results", job_id, "--json").stdout)
    assert len(every) == 12
    assert set(every[-1]) == {"video_id", "start", "end", "label", "score", "model"}
    assert every[0]["tags"] == ["Backwards"]
    assert rows[0][-2:] == ["A", "(Backwards)"]
    done = balletal("jobs", "results", job_id, "--out", tmp_path / "found.csv", "--model", "other", "--min-score", 0.1)
    assert f"csv -> {tmp_path}/found.csv" in done.stderr
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 7
    done = balletal("jobs", "results", job_id, "--out", tmp_path / "found.srt")
    assert "(a zip file)" in done.stderr
    balletal("jobs", "results", job_id, "--to", "label-studio", "--out", tmp_path / "tasks.json")
    assert len(json.loads((tmp_path / "tasks.json").read_text())) == 3
    assert balletal("jobs", "results", job_id, "--to", "csv").exit_code == 2


def test_a_job_in_which_a_video_fails(balletal: Balletal, whole: Whole, tmp_path: Path) -> None:
    videos = [f"file://{whole.place}/{name}.mp4" for name in ("a", "bad")]
    done = balletal("jobs", "submit", *videos, "--out", tmp_path / "found.json", "--top-k", 7)
    assert done.exit_code == 3
    assert "partial; 1 of 2 videos ok, 1 failed" in done.stderr
    assert [one["video_id"] for one in json.loads((tmp_path / "found.json").read_text())["segments"]] == ["a", "a"]
    job_id = done.stderr.split()[1]
    assert balletal("jobs", "watch", job_id).exit_code == 3
    assert balletal("jobs", "results", job_id).exit_code == 3
    shown = json.loads(balletal("jobs", "show", job_id, "--json").stdout)
    assert shown["params"]["top_k"] == 7
    assert job_id in balletal("jobs", "list").stdout
    assert json.loads(balletal("jobs", "list", "--json").stdout)[0]["id"] == job_id


def test_a_job_is_cancelled(balletal: Balletal, whole: Whole, clips: Path) -> None:
    whole.backend.runner.hold.clear()
    done = balletal("jobs", "submit", clips / "a.mp4")
    job_id = done.stdout.strip()
    assert "steps" not in balletal("jobs", "results", job_id).stdout
    assert "cancelled" in balletal("jobs", "cancel", job_id).stderr
    assert "cancelled" in balletal("jobs", "show", job_id).stdout
    assert balletal("jobs", "watch", job_id).exit_code == 1
    whole.backend.runner.hold.set()


def test_nothing_is_sent_of_inputs_of_which_one_is_wrong(balletal: Balletal, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    for wrong in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(InputError):
            balletal("jobs", "submit", clips / "a.mp4", wrong)
    with pytest.raises(ServiceError, match="422 Place not allowed"):
        balletal("jobs", "submit", "file:///etc/")
