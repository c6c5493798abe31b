import json
from pathlib import Path
from typing import Any

import pytest
import ray
from typer.testing import CliRunner

from balletal.errors import InputError, StorageError
from workflows import doctor, doctor_cluster, weights
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


@pytest.mark.ray
def test_a_cluster_node_by_node(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_cluster, "_STORAGE_S", 240.0)  # a busy machine takes long to start workers
    (tmp_path / "bucket").mkdir()
    (tmp_path / "file").touch()
    address = ray.get_runtime_context().gcs_address
    with pytest.raises(doctor.typer.Exit) as caught:
        doctor.main(address=address, storage=[f"{tmp_path}/bucket", f"{tmp_path}/file"], json=True)
    assert caught.value.exit_code == FAILED
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert found["nodes"]["found"].startswith("1: ")
    assert found["ray"] == {"name": "ray", "found": ray.__version__, "ok": True, "todo": ""}
    assert found["python"]["ok"] is found["torch"]["ok"] is found["clocks"]["ok"] is True
    assert found["cpu"]["found"].endswith("of 2 free")
    assert found["gpu"]["ok"] is None
    assert found[f"storage {tmp_path}/bucket"]["found"] == "written, read and removed by all"
    assert not list((tmp_path / "bucket").iterdir())
    refused = found[f"storage {tmp_path}/file"]
    assert (refused["ok"], refused["found"].partition(":")[0]) == (False, "InputError")
    assert found["weights i3d-rgb-kinetics400"]["found"] in ("cached", "not cached")


@pytest.mark.ray
def test_nodes_that_differ_are_named(ray_cluster: None) -> None:
    (node,) = ray.nodes()
    gone = node | {"NodeID": "0" * 55 + "1"}
    answers = doctor_cluster._ask({"a": node, "b": gone}, doctor_cluster._installed)
    assert answers["a"] == doctor_cluster._installed()
    assert isinstance(answers["b"], Exception)
    other = answers["a"] | {"ray": "1"}
    checks = doctor_cluster._versions({"a": {"installed": answers["a"]}, "b": {"installed": other}})
    assert {check["name"]: check["ok"] for check in checks} == {
        "python": True,
        "ray": False,
        "balletal": True,
        "torch": True,
    }
    assert checks[1]["found"] == f"{ray.__version__} on a; 1 on b"


def test_nodes_with_the_same_trouble_say_it_once() -> None:
    own = {"a": "/file-a", "b": "/file-b"}
    away: dict[str, Any] = {
        name: StorageError(f"s3://x{file}", expected="it", found="no") for name, file in own.items()
    }
    assert doctor_cluster._summary(away, own) == ("StorageError: s3://x: expected it, found no", False)
    assert doctor_cluster._summary(away | {"b": "written"}, own) == (
        "StorageError: s3://x: expected it, found no on a; written on b",
        False,
    )


@pytest.mark.ray
def test_a_cluster_is_asked_for_weights_that_there_are(ray_cluster: None) -> None:
    with pytest.raises(InputError, match="expected one of i3d-rgb-kinetics400, found no weights of that name"):
        doctor.main(address="auto", weights=["none"])
    with pytest.raises(doctor.typer.BadParameter):
        doctor.main(storage=["s3://bucket"])
