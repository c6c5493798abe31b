"""Run a workflow as a job of a Ray cluster. `python -m workflows.submit WORKFLOW ...`.

A job has a name, of what it does: the same submit twice is one job. Every workflow goes on from what is there, so that
submitting again what failed or was stopped is how it is resumed: as the next attempt of the same name.
"""

import hashlib
import json as json_
import re
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from balletal.errors import InputError
from workflows.cli import COMMANDS
from workflows.console import FAILED, INTERRUPTED, finish, print_json, run, say
from workflows.ray_jobs import RayJobs, cluster_address
from workflows.runtime_env import PARTS, PROJECT, package, paths_of_nodes, variables

NAME, ATTEMPT, WORKFLOW = "balletal.name", "balletal.attempt", "balletal.workflow"
"""Metadata of our jobs."""

_REFUSED = {
    "serve": "a service is deployed: serve deploy cluster/serve_config.yaml",
    "submit": "it is how this machine asks a cluster",
    "submitted": "it is how this machine asks a cluster",
    "app": "it asks a service from here",
    "request": "it asks a service from here",
    "jobs": "it asks a service from here",
    "doctor": "it looks at a cluster from here: balletal doctor --address ADDRESS",
}


class Submitted(NamedTuple):
    """An attempt at a job; ``new`` where it began with this submit. ``status`` is Ray's word."""

    id: str
    name: str
    attempt: int
    status: str
    new: bool


def submit(jobs: RayJobs, workflow: str, args: list[str], *, name: str | None = None, **options: Any) -> Submitted:
    """Have a cluster run a workflow, once: what runs already or has succeeded is not begun again.

    Args:
        workflow: a command, such as ``extract``.
        name: of the job; default: the workflow and a digest of its arguments.
        options: of Ray's ``submit_job``, such as ``runtime_env``, ``metadata``, ``entrypoint_num_cpus``.

    Raises:
        InputError: no such workflow, or a name that another command has.
    """
    entrypoint = shlex.join(["python", "-m", module_of(workflow), *args])
    name = name or default_name(workflow, args)
    while True:
        before = attempts(jobs, name)
        last = before[-1] if before else None
        if last is not None:
            if last.entrypoint != entrypoint:
                raise InputError(f"--id {name}", expected="an id of its own", found=f"that of: {last.entrypoint}")
            if str(last.status) not in ("FAILED", "STOPPED"):
                return Submitted(last.submission_id, name, len(before), str(last.status), new=False)
        attempt = len(before) + 1
        submission_id = name if attempt == 1 else f"{name}-{attempt}"
        metadata = options.get("metadata", {}) | {NAME: name, ATTEMPT: str(attempt), WORKFLOW: workflow}
        if jobs.submit(entrypoint, submission_id, **(options | {"metadata": metadata})):
            return Submitted(submission_id, name, attempt, "PENDING", new=True)
        if len(attempts(jobs, name)) < attempt:  # nobody was first with the same
            raise InputError(f"--id {name}", expected="an id of its own", found=f"another job called {submission_id}")


def module_of(workflow: str) -> str:
    """The module that a command is.

    Raises:
        InputError: no such workflow, or one that a cluster does not run.
    """
    modules = {command: module for commands in COMMANDS.values() for command, module in commands.items()}
    if workflow in _REFUSED:
        raise InputError(workflow, expected="a workflow for a cluster", found=_REFUSED[workflow])
    if workflow not in modules:
        expected = f"one of {', '.join(command for command in modules if command not in _REFUSED)}"
        raise InputError(workflow, expected=expected, found="no workflow of that name")
    return f"workflows.{modules[workflow]}"


def default_name(workflow: str, args: list[str]) -> str:
    """The same for the same words, wherever and whenever they are submitted."""
    digest = hashlib.sha256(json_.dumps([workflow, *args]).encode()).hexdigest()
    return f"{workflow}-{digest[:12]}"


def submitted_jobs(jobs: RayJobs) -> list[Any]:
    """``JobDetails`` of what :func:`submit` began; others may call theirs by the same name."""
    found = [job for job in jobs.all() if {NAME, ATTEMPT, WORKFLOW} <= (job.metadata or {}).keys()]
    return [job for job in found if job.metadata[ATTEMPT].isdecimal()]


def attempts(jobs: RayJobs, name: str) -> list[Any]:
    """``JobDetails`` of the attempts at a job, first to last."""
    found = [job for job in submitted_jobs(jobs) if job.metadata[NAME] == name]
    return sorted(found, key=lambda job: int(job.metadata[ATTEMPT]))


def follow(jobs: RayJobs, submission_id: str, *, json: bool = False) -> Any:
    """Print the log of a job until it has ended, on stdout (stderr with ``json``); its ``JobDetails``."""
    stream = sys.stderr if json else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    try:
        job = jobs.follow(submission_id, write)
    except KeyboardInterrupt:
        say(
            f"\n{submission_id} goes on. To follow it: balletal submitted logs {submission_id} --follow; "
            f"to stop it: balletal submitted stop {submission_id}"
        )
        finish(INTERRUPTED)
    say(f"{submission_id}: {told(job)}")
    return job


def told(job: Any) -> str:
    """The state of a job in words; why, where its own log does not say."""
    if job is None:
        return "the cluster does not know it any more"
    if str(job.status) == "FAILED" and job.driver_exit_code is None:
        return f"failed: {(job.message or 'for a reason that Ray does not tell').strip()}"
    code = f" with exit code {job.driver_exit_code}" if job.driver_exit_code else ""
    return str(job.status).lower() + code


def end(job: Any) -> None:
    """End as the job did: with its exit code, or 1 where it has none of its own."""
    if job is None or str(job.status) != "SUCCEEDED":
        code = 0 if job is None else job.driver_exit_code or 0
        finish(code if 0 < code < 256 else FAILED)


def _pairs(given: list[str]) -> dict[str, str]:
    for one in given:
        if "=" not in one.strip("="):
            raise InputError(f"--metadata {one}", expected="KEY=VALUE", found="no key or no value")
    return dict(one.split("=", 1) for one in given)


def _warn_of_paths(paths: list[str]) -> None:
    if paths:
        say(
            f"warning: every node must have the same files at {', '.join(paths)}; a URI such as s3://... is seen by all"
        )
    if relative := [path for path in paths if not Path(path).is_absolute()]:
        say(f"warning: {', '.join(relative)}: relative to the job's own folder, which is removed with it")


SETTINGS = {"allow_interspersed_args": False}
"""Of the command line: words behind WORKFLOW are its own, options too."""

Address = Annotated[
    str | None,
    typer.Option(
        help="http://HOST:8265 of the cluster's dashboard, or the cluster.",
        show_default="RAY_API_SERVER_ADDRESS or RAY_ADDRESS of the environment",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def main(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="A command, such as extract.")],
    args: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="What the command gets, as it is.")
    ] = None,
    address: Address = None,
    name: Annotated[
        str | None,
        typer.Option("--id", help="Name of the job; another one begins another job.", show_default="of what it does"),
    ] = None,
    follow_: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Print its log until it ends, and end with its exit code.")
    ] = True,
    env: Annotated[
        list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="Variable for the job; KEY: as it is here.")
    ] = None,
    requirements: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="pip's file of what the cluster's image lacks.", show_default="none"
        ),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder that goes with the job.", show_default="balletal's code"
        ),
    ] = None,
    no_working_dir: Annotated[
        bool, typer.Option("--no-working-dir", help="Send nothing: balletal is installed on the cluster.")
    ] = False,
    num_cpus: Annotated[
        float | None, typer.Option(min=0, help="CPUs for the command itself.", show_default="0")
    ] = None,
    num_gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs for the command itself.", show_default="0")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(min=0, help="GiB of memory for the command itself.", show_default="0")
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A note on the job.")] = None,
    json: Json = False,
) -> None:
    """Run a workflow on a Ray cluster. The same submit twice is one job; after a failure or a stop it resumes.

    Options of submit stand before WORKFLOW, those of the workflow behind it.
    """
    module_of(workflow)
    args = args or []
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name):
        raise InputError(f"--id {name}", expected="letters, digits, and . _ - between them", found="something else")
    folder = None if no_working_dir else working_dir or PROJECT
    runtime_env: dict[str, Any] = {"env_vars": variables(env or [])}
    options: dict[str, Any] = {
        "runtime_env": runtime_env,
        "metadata": _pairs(metadata or []),
        "entrypoint_num_cpus": num_cpus,
        "entrypoint_num_gpus": num_gpus,
        "entrypoint_memory": None if memory is None else int(memory * 2**30),
    }
    if requirements is not None:
        runtime_env["pip"] = str(requirements)
    _warn_of_paths(paths_of_nodes(args, folder))
    with ExitStack() as stack:
        if folder is not None:
            archive = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "code.zip"
            package(folder, archive, () if working_dir else PARTS)
            runtime_env["working_dir"] = str(archive)
        jobs = RayJobs(cluster_address(address))
        submitted = submit(jobs, workflow, args, name=name, **options)
    say(_line(submitted))
    job = follow(jobs, submitted.id, json=json) if follow_ else None
    if json:
        told_ = {} if job is None else {"status": str(job.status), "exit_code": job.driver_exit_code}
        print_json(submitted._asdict() | told_)
    if follow_:
        end(job)


def _line(submitted: Submitted) -> str:
    if not submitted.new:
        ended = submitted.status == "SUCCEEDED"
        more = "has succeeded; another --id does it again" if ended else "is there already, and is not begun twice"
        return f"{submitted.id} {more}"
    if submitted.attempt > 1:
        return f"{submitted.id}: submitted, attempt {submitted.attempt} goes on from what is there"
    return f"{submitted.id}: submitted"


if __name__ == "__main__":
    run(main, SETTINGS)
