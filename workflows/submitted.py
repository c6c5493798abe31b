"""The jobs that `balletal submit` gave to a cluster. `python -m workflows.submitted`."""

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from balletal.errors import InputError
from workflows.console import FAILED, finish, print_json, run, say
from workflows.ray_jobs import RayJobs, cluster_address
from workflows.request import print_table
from workflows.submit import ATTEMPT, NAME, WORKFLOW, Address, Json, attempts, end, follow, submitted_jobs, told

app = typer.Typer(help="Jobs that were submitted to a cluster: list, show, logs, stop.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id; its latest attempt, if there are several.")]


@app.command("list")
def list_(address: Address = None, json: Json = False) -> None:
    """What was submitted, latest first."""
    jobs = submitted_jobs(RayJobs(cluster_address(address)))
    jobs.sort(key=lambda job: -(job.start_time or 0))
    if json:
        print_json([_row(job) for job in jobs])
        return
    table = Table(Column("job", no_wrap=True), "workflow", "attempt", "status", "exit code", "begun", "took", box=None)
    for job in jobs:
        row = _row(job)
        begun = datetime.fromtimestamp(row["begun"]).strftime("%Y-%m-%d %H:%M") if row["begun"] else ""
        took = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        code = "" if row["exit_code"] is None else str(row["exit_code"])
        words = (row["id"], row["workflow"], str(row["attempt"]), row["status"], code, begun, took)
        table.add_row(*map(Text, words))
    print_table(table)


@app.command()
def show(job_id: JobId, address: Address = None, json: Json = False) -> None:
    """How a job is, and the last line that it printed: how far it is."""
    jobs = RayJobs(cluster_address(address))
    job = _find(jobs, job_id)
    lines = jobs.log(job.submission_id).strip().splitlines() if str(job.status) != "PENDING" else []
    if json:
        print_json(_row(job) | {"entrypoint": job.entrypoint, "last_line": lines[-1] if lines else None})
        return
    Console(highlight=False, soft_wrap=True).print(Text(f"{job.submission_id}: {told(job)}\n{job.entrypoint}"))
    if lines:
        Console(highlight=False, soft_wrap=True).print(Text(lines[-1]))


@app.command()
def logs(
    job_id: JobId,
    address: Address = None,
    follow_: Annotated[bool, typer.Option("--follow", help="Until the job ends; and end with its exit code.")] = False,
) -> None:
    """What a job has printed."""
    jobs = RayJobs(cluster_address(address))
    job = _find(jobs, job_id)
    if follow_:
        end(follow(jobs, job.submission_id))
    else:
        typer.echo(jobs.log(job.submission_id), nl=False)


@app.command()
def stop(job_id: JobId, address: Address = None) -> None:
    """Stop a job; what it has done is kept, and submitting it again goes on from there."""
    jobs = RayJobs(cluster_address(address))
    job = _find(jobs, job_id)
    if not job.status.is_terminal():
        jobs.stop(job.submission_id)
        job = jobs.ended(job.submission_id)
    say(f"{job_id}: {told(job)}")
    if job is not None and not job.status.is_terminal():
        finish(FAILED)


def _find(jobs: RayJobs, job_id: str) -> Any:
    found = attempts(jobs, job_id)
    job = found[-1] if found else jobs.job(job_id)
    if job is None:
        expected = "a job that the cluster remembers (balletal submitted list)"
        raise InputError(job_id, expected=expected, found="none of that id")
    return job


def _row(job: Any) -> dict[str, Any]:
    about = job.metadata or {}
    seconds = None if not (job.start_time and job.end_time) else (job.end_time - job.start_time) / 1000
    return {
        "id": job.submission_id,
        "name": about.get(NAME),
        "workflow": about.get(WORKFLOW),
        "attempt": int(about.get(ATTEMPT, 1)),
        "status": str(job.status),
        "exit_code": job.driver_exit_code,
        "begun": job.start_time and job.start_time / 1000,
        "seconds": seconds,
    }


if __name__ == "__main__":
    run(app)
