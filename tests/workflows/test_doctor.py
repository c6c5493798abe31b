import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workflows import doctor, weights
from workflows.console import FAILED

runner = CliRunner()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALLETAL_CACHE", str(tmp_path / "cache"))


def _doctor(capsys: pytest.CaptureFixture[str]) -> dict:
    doctor.main(json=True)
    return json.loads(capsys.readouterr().out)


def test_this_machine_can_run_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    report = _doctor(capsys)
    assert report["ok"]
    found = {check["name"]: check for check in report["checks"]}
    assert {"python", "torch", "gpu", "bfloat16", "ray", "av", "decoders", "h264 encoder", "memory", "cpu"} <= set(
        found
    )
    assert {"h264", "hevc", "vp9", "av1"} <= set(found["decoders"]["found"].split(", "))
    assert found["weights"]["ok"] is None
    assert found["weights"]["todo"] == "balletal weights get i3d-rgb-kinetics400"


def test_a_missing_decoder_fails_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_codec", lambda av, name, mode: name != "h264")
    with pytest.raises(doctor.typer.Exit) as caught:
        doctor.main(json=True)
    assert caught.value.exit_code == FAILED
    report = json.loads(capsys.readouterr().out)
    decoders = next(check for check in report["checks"] if check["name"] == "decoders")
    assert decoders["ok"] is False
    assert "no decoder for h264" in decoders["todo"]


def test_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main()
    assert "weights get" in capsys.readouterr().out


def test_weights_list() -> None:
    rows = json.loads(runner.invoke(weights.app, ["list", "--json"]).stdout)
    assert [(row["name"], row["cached"]) for row in rows] == [("i3d-rgb-kinetics400", False)]
    assert "i3d-rgb-kinetics400" in runner.invoke(weights.app, ["list"]).stdout


def test_weights_get(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "get_weights", lambda name: tmp_path / name)
    row = json.loads(runner.invoke(weights.app, ["get", "i3d-rgb-kinetics400", "--json"]).stdout)
    assert row["name"] == "i3d-rgb-kinetics400"
