import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import Result

import schemas
from balletal.client import Client, ServiceError
from balletal.errors import InputError
from tests.workflows.serve.whole import TOKEN, Whole, line_to
from workflows import request

Balletal = Callable[..., Result]


def test_localize(balletal: Balletal, clips: Path) -> None:
    done = balletal("request", "localize", clips / "a.mp4", "--min-score", 0.3, "--top-k", 5)
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [
        ["start", "end", "score", "step"],
        ["0.20", "0.60", "0.90", "Pirouette"],
        ["1.00", "2.00", "0.40", "Courus"],
    ]
    assert "2 steps in 2.00 s of video, by other@1" in done.stderr
    result = json.loads(balletal("request", "localize", clips / "a.mp4", "--model", "fake@1", "--json").stdout)
    jsonschema.Draft202012Validator(schemas.json_schema("result")).validate(result)
    assert result["model"]["version"] == "1"


def test_a_long_video_is_told_where_to_go(balletal: Balletal, clips: Path) -> None:
    done = balletal("request", "localize", clips / "long.mp4", catch_exceptions=True)
    assert isinstance(done.exception, ServiceError)
    assert f"balletal jobs submit {clips}/long.mp4 --wait" in done.stderr
    assert balletal("request", "localize", clips / "long.mp4", "--start", 1.5).exit_code == 0
    with pytest.raises(InputError, match="jobs submit"):
        balletal("request", "localize", "s3://bucket/folder/")
    with pytest.raises(InputError, match="a video's file"):
        balletal("request", "localize", clips / "none.mp4")


def test_upload_and_models(balletal: Balletal, clips: Path) -> None:
    done = balletal("request", "upload", clips / "a.mp4")
    video_id = done.stdout.strip()
    assert "a.mp4: 2.00 s, 64 x 48, h264" in done.stderr
    assert balletal("request", "localize", video_id).exit_code == 0
    assert json.loads(balletal("request", "upload", clips / "b.mp4", "--json").stdout)["name"] == "b.mp4"
    assert [line.split()[0] for line in balletal("request", "models").stdout.splitlines()[1:]] == [
        "fake@1",
        "fake@2",
        "other@1",
    ]
    assert json.loads(balletal("request", "models", "--json").stdout)["default"] == "other@1"


def test_an_upload_that_is_cut_says_how_to_go_on(balletal: Balletal, clips: Path, whole: Whole, monkeypatch) -> None:
    def impatient(url: str, token: str | None) -> Client:
        return Client(url, token, patience_s=0.0)

    monkeypatch.setattr(request, "Client", impatient)
    with line_to(whole.url) as (url, line):
        line.cuts.append((4000, None))
        done = balletal("request", "upload", clips / "a.mp4", "--url", url, catch_exceptions=True)
    assert isinstance(done.exception, ServiceError)
    words = done.stderr.split("to go on: balletal ")[1].split()
    assert words[:2] == ["request", "upload"]
    assert balletal(*words).stdout.strip() == words[-1]


def test_the_token_comes_from_a_file_or_the_environment(
    balletal: Balletal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("BALLETAL_TOKEN", "another-token-0123456789")
    assert balletal("request", "models", "--token-file", tmp_path / "token").exit_code == 0
    with pytest.raises(ServiceError, match="401"):
        balletal("request", "models")
    monkeypatch.delenv("BALLETAL_TOKEN")
    with pytest.raises(ServiceError, match="401"):
        balletal("request", "models")
    (tmp_path / "token").write_text("\n")
    with pytest.raises(InputError, match="expected a token, found nothing"):
        balletal("request", "models", "--token-file", tmp_path / "token")
