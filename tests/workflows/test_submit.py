"""Workflows as jobs of a real Ray: once, followed, stopped, gone on with."""

import json
import os
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import ray
from click.testing import Result
from typer.testing import CliRunner

from balletal.errors import BalletalError, InputError
from balletal.synthetic.card import dataset_card
from balletal.synthetic.corpus import write_annotations, write_video
from balletal.synthetic.presets import PRESETS
from tests.workflows.faults_common import until
from tests.workflows.serve.whole import answering
from workflows import cluster
from workflows.cli import COMMANDS, build
from workflows.cluster import check_reachable
from workflows.ray_jobs import RayJobs, cluster_address
from workflows.runtime_env import PARTS, PROJECT, package, paths_of_nodes, variables
from workflows.submit import ATTEMPT, NAME, WORKFLOW, attempts, default_name, module_of, submit, submitted_jobs

ROOT = Path(__file__).resolve().parents[2]
Balletal = Callable[..., Result]
# The interpreter of these tests, as `python` is on the cluster's image.
PYTHON = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.fixture
def balletal(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> Balletal:
    """The command, with the session's cluster in the environment; stdout and stderr of its result are apart."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", ray.get_runtime_context().gcs_address)
    app = build()
    return lambda *words: CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture
def jobs(ray_cluster: None) -> RayJobs:
    return RayJobs(ray.get_runtime_context().gcs_address)


def content(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name != "config.yaml"}


@pytest.fixture
def one_cpu(ray_cluster: None) -> Iterator[None]:
    """The other CPU of the cluster is taken, so that a corpus is drawn video by video."""

    class Holder:
        def ready(self) -> None:
            pass

    holder = ray.remote(num_cpus=1)(Holder).remote()
    ray.get(holder.ready.remote())
    yield
    ray.kill(holder)


@pytest.mark.ray
def test_a_job_is_one_however_often_it_is_submitted_and_goes_on_after_a_stop(
    balletal: Balletal, jobs: RayJobs, one_cpu: None, tmp_path: Path
) -> None:
    out, size, seconds = tmp_path / "corpus", (96, 64), 12.0
    videos = 5  # so that some are left however long the stop takes
    words = ("synth", "--out", out, "--videos", videos, "--seconds", seconds, "--seed", 4, "--preset", "easy")
    words = (*words, "--size", "96x64")
    name = default_name("synth", list(map(str, words[1:])))
    begun = balletal("submit", "--no-follow", "--json", "--env", PYTHON, *words)
    assert json.loads(begun.stdout) == {"id": name, "name": name, "attempt": 1, "status": "PENDING", "new": True}
    assert f"warning: every node must have the same files at {out};" in begun.stderr

    again = balletal("submit", "--no-follow", "--json", "--env", PYTHON, *words)
    assert (json.loads(again.stdout)["id"], json.loads(again.stdout)["new"]) == (name, False)
    assert "is there already, and is not begun twice" in again.stderr
    assert [job.submission_id for job in attempts(jobs, name)] == [name]
    with pytest.raises(InputError, match=r"expected an id of its own, found that of: python -m workflows.synth"):
        submit(jobs, "synth", ["--out", "another"], name=name)

    until(lambda: list(out.glob("joints/*.parquet")) or jobs.job(name).status.is_terminal())
    assert str(jobs.job(name).status) == "RUNNING", jobs.log(name)
    stopped = balletal("submitted", "stop", name)
    assert (stopped.exit_code, stopped.stderr) == (0, f"{name}: stopped\n")
    assert not (out / "annotations.json").exists()

    resumed = balletal("submit", "--env", PYTHON, *words)
    assert resumed.exit_code == 0, resumed.output
    assert f"{name}-2: submitted, attempt 2 goes on from what is there" in resumed.stderr
    [there] = re.findall(r"^5 videos of 12 s, (\d) there already$", resumed.stdout, re.MULTILINE)  # each line once
    assert 1 <= int(there) < videos
    assert re.search(rf"^5 videos with \d+ steps \({there} there already\)", resumed.stdout, re.MULTILINE)
    assert f"{name}-2: succeeded" in resumed.stderr

    alone = tmp_path / "alone"
    records = [write_video(str(alone), index, 4, seconds, PRESETS["easy"], size) for index in range(videos)]
    write_annotations(str(alone), records, dataset_card(records, seed=4, seconds=seconds, preset="easy", size=size))
    assert content(out) == content(alone)

    done = balletal("submit", "--env", PYTHON, *words)
    assert done.exit_code == 0
    assert f"{name}-2 has succeeded; another --id does it again" in done.stderr
    assert f"{there} there already" in done.stdout
    rows = json.loads(balletal("submitted", "list", "--json").stdout)
    ours = [(row["id"], row["attempt"], row["status"]) for row in rows if row["name"] == name]
    assert ours == [(f"{name}-2", 2, "SUCCEEDED"), (name, 1, "STOPPED")]
    assert f"{name}-2" in balletal("submitted", "list").stdout
    shown = json.loads(balletal("submitted", "show", name, "--json").stdout)
    assert (shown["id"], shown["exit_code"], shown["last_line"].endswith(str(out))) == (f"{name}-2", 0, True)
    assert balletal("submitted", "stop", name).stderr == f"{name}: succeeded\n"


@pytest.mark.ray
def test_the_exit_code_of_a_workflow_is_handed_on(balletal: Balletal, tmp_path: Path) -> None:
    (tmp_path / "released").mkdir()
    np.save(tmp_path / "released" / "good.npy", np.ones((3, 16)))
    (tmp_path / "released" / "bad.npy").write_bytes(b"no array")
    words = ("import-features", tmp_path / "released", "--store", tmp_path / "store", "--dim", 16)
    done = balletal("submit", "--id", "import", "--json", "--env", PYTHON, "--metadata", "who=me", *words)
    assert done.exit_code == 3, done.output
    report = json.loads(done.stdout)
    assert (report["id"], report["status"], report["exit_code"]) == ("import", "FAILED", 3)
    assert "import: failed with exit code 3" in done.stderr
    assert balletal("submitted", "logs", "import", "--follow").exit_code == 3
    log = balletal("submitted", "logs", "import")
    assert log.exit_code == 0
    assert "Running entrypoint for job import: python -m workflows.import_features" in log.stdout
    missing = balletal("submitted", "show", "nothing")
    assert "expected a job that the cluster remembers" in str(missing.exception)


@pytest.mark.ray
def test_submits_at_once_are_one_job(jobs: RayJobs, tmp_path: Path) -> None:
    """Whether they run is another matter: there is no such file."""
    found = []
    args = ["stats", str(tmp_path / "none.json")]
    threads = [threading.Thread(target=lambda: found.append(submit(jobs, "annotations", args))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.id for one in found}) == 1
    assert sorted(one.new for one in found) == [False, False, True]
    jobs.stop(found[0].id)
    assert jobs.ended(found[0].id).status.is_terminal()


def test_every_workflow_is_a_program() -> None:
    refused = {"serve", "app", "submit", "submitted", "request", "jobs", "doctor"}
    commands = {command for commands in COMMANDS.values() for command in commands}
    for command in commands - refused:
        path = ROOT.joinpath(*module_of(command).split(".")).with_suffix(".py")
        assert re.search(r'if __name__ == "__main__":\n    run\((main|app)\)\n', path.read_text()), command
    for command in refused:
        with pytest.raises(InputError, match="expected a workflow for a cluster, found"):
            module_of(command)
    with pytest.raises(InputError, match=r"expected one of annotations, .*extract.*, found no workflow of that name"):
        module_of("extrct")


def test_a_name_is_that_of_what_is_done() -> None:
    assert default_name("extract", ["--store", "s"]) == default_name("extract", ["--store", "s"])
    assert default_name("extract", ["--store", "s"]) != default_name("extract", ["--store", "t"])


def test_without_an_address_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"--address: expected the address of a cluster.*, found none"):
        cluster_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "http://there:8265")
    assert cluster_address(None) == "http://there:8265"
    assert cluster_address("http://here:8265") == "http://here:8265"


@pytest.mark.ray
def test_another_address_in_the_environment_does_not_count(jobs: RayJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert RayJobs(jobs.address).job("nothing") is None
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:9"


@pytest.mark.ray
def test_what_is_no_cluster_is_told_at_once(jobs: RayJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_S", 60.0)  # a busy dashboard takes its time to say that it is one
    for address in ("127.0.0.1:9", "http://127.0.0.1:9", "ray://127.0.0.1:9"):
        with pytest.raises(InputError, match="expected a cluster that can be reached, found Connection refused"):
            RayJobs(address)
    with pytest.raises(InputError, match="no host and port"):
        check_reachable("nonsense")
    dashboard = str(jobs._client.get_address())
    with pytest.raises(InputError, match="a web server without http://"):
        check_reachable(dashboard.removeprefix("http://"))
    assert RayJobs(dashboard).job("nothing") is None


@pytest.mark.parametrize(
    "answer",
    [(200, {}, b"<html>"), (200, {}, b"{}"), (200, {}, b"[]"), (404, {}, b""), (500, {}, b"Traceback")],
)
def test_what_is_no_dashboard_of_ray_is_told(answer: tuple[int, dict[str, str], bytes]) -> None:
    version = (200, {}, json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""}).encode())
    told = "expected the answer of a Ray dashboard, found"
    with answering([answer]) as (url, _), pytest.raises(BalletalError, match=told):
        RayJobs(url)
    with answering([version, version, answer]) as (url, _):  # it asks twice
        jobs = RayJobs(url)
        for ask in (jobs.log, jobs.stop):
            with pytest.raises(BalletalError, match=told):
                ask("a")
    with pytest.raises(InputError, match="no host and port"):
        check_reachable("http://[")


def test_jobs_of_others_are_none_of_ours() -> None:
    ours = {NAME: "a", ATTEMPT: "1", WORKFLOW: "synth"}
    about = [None, {NAME: "a"}, ours | {ATTEMPT: "first"}, ours]

    class Jobs:
        def all(self) -> list[Any]:
            return [SimpleNamespace(metadata=one) for one in about]

    jobs = cast(RayJobs, Jobs())
    assert [job.metadata for job in submitted_jobs(jobs)] == [job.metadata for job in attempts(jobs, "a")] == [ours]


@pytest.mark.ray
def test_a_token_of_another_cluster_is_told(jobs: RayJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jobs._client._headers, "authorization", "Bearer " + "0" * 64)
    with pytest.raises(InputError, match=r"expected the cluster's token \(RAY_AUTH_MODE=token, .*\), found another"):
        jobs.all()


def test_the_code_goes_and_the_data_stays(tmp_path: Path) -> None:
    package(PROJECT, tmp_path / "a.zip", PARTS)
    package(PROJECT, tmp_path / "b.zip", PARTS)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    names = set(zipfile.ZipFile(tmp_path / "a.zip").namelist())
    assert {"workflows/extract.py", "balletal/errors.py", "schemas/labels/annchor-coarse.json"} <= names
    assert {name.partition("/")[0] for name in names} == {"balletal", "workflows", "schemas", "pyproject.toml"}
    assert not [name for name in names if "__pycache__" in name]

    folder = tmp_path / "mine"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("hidden")
    (folder / "config.yaml").write_text("a: 1")
    package(folder, tmp_path / "c.zip")
    assert zipfile.ZipFile(tmp_path / "c.zip").namelist() == ["config.yaml"]
    with (folder / "video.mp4").open("wb") as video:
        video.truncate(600 << 20)
    with pytest.raises(InputError, match=r"expected at most 512 MiB of code and configuration.*, found 600 MiB in 2"):
        package(folder, tmp_path / "d.zip")


def test_variables_go_by_name_and_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert variables(["AWS_SECRET_ACCESS_KEY", "A=b=c"]) == {"AWS_SECRET_ACCESS_KEY": "hush", "A": "b=c"}
    with pytest.raises(InputError, match="--env NONE_SUCH: expected KEY=VALUE, or KEY of a variable that is set here"):
        variables(["NONE_SUCH"])


def test_paths_that_nodes_must_have(tmp_path: Path) -> None:
    words = ["--store", "s3://b/store", "--videos", str(tmp_path), "--out=runs/a", "workflows/configs/demo.yaml", "12"]
    assert paths_of_nodes(words, PROJECT) == [str(tmp_path), "runs/a"]
    assert "workflows/configs/demo.yaml" in paths_of_nodes(words, None)
    assert paths_of_nodes(["x" * 300], PROJECT) == []  # too long for a file's name
