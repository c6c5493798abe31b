"""`balletal jobs`: any number of videos of any length, localized by a service while nobody waits."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import pandas as pd
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from balletal import files
from balletal.client import Client, Event, Job
from balletal.errors import InputError
from balletal.video.probe import VIDEO_SUFFIXES
from workflows.console import FAILED, SOME_VIDEOS_FAILED, finish, print_json, run, say
from workflows.request import HERE, Json, MinScore, TokenFile, TopK, Url, connect, print_table, send, step, video_input

app = typer.Typer(help="Jobs of a running service: begin, watch, fetch results.", no_args_is_help=True)

Format = Literal["json", "csv", "activitynet", "eaf", "vtt", "srt", "otio", "label-studio"]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id.")]
Out = Annotated[str | None, typer.Option(help="File to write the detections of one model to.")]
To = Annotated[Format | None, typer.Option(help="What to write; default: as the file's name ends, else JSON.")]


@app.command()
def submit(
    videos: Annotated[
        list[str],
        typer.Argument(metavar="VIDEO_OR_URI...", help="Files or folders, ids, URIs; one that ends in / is a folder."),
    ],
    url: Url = HERE,
    token_file: TokenFile = None,
    model: Annotated[
        list[str] | None, typer.Option(help="name or name@version; several times: each of them.", show_default="own")
    ] = None,
    min_score: MinScore = 0.0,
    top_k: TopK = None,
    coarse: Annotated[bool, typer.Option("--coarse", help="Find the coarse classes of a bundle of fine ones.")] = False,
    output_uri: Annotated[str | None, typer.Option(help="Folder of the service's that gets a copy.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is finished; then its results.")] = False,
    out: Out = None,
    to: To = None,
    json: Json = False,
) -> None:
    """Begin a job; files are uploaded first. Waits with --wait or --out."""
    named = [one for video in videos for one in _inputs(video)]  # what is wrong is told before anything is sent
    with connect(url, token_file) as client:
        inputs = [{"video_id": send(client, one["path"]).video_id} if "path" in one else one for one in named]
        params = {"min_score": min_score, "top_k": top_k, "coarse": coarse}
        job = client.jobs.submit(inputs, models=model, params=params, output_uri=output_uri)
        say(f"job {job.id}")
        if wait or out is not None:
            _finished(client, client.jobs.wait(job.id, _say_event), out, to, json)
        elif json:
            print_json(job.model_dump(mode="json"))
        else:
            Console(highlight=False).print(job.id)


def _inputs(given: str) -> list[dict[str, str]]:
    if not Path(given).is_dir():
        return [video_input(given)]
    found = files.list_files(given, VIDEO_SUFFIXES)
    if not found:
        raise InputError(given, expected=f"files ending in {', '.join(VIDEO_SUFFIXES)}", found="none")
    return [{"path": file} for file in found]


@app.command("list")
def list_(url: Url = HERE, token_file: TokenFile = None, json: Json = False) -> None:
    """Your jobs, latest first."""
    with connect(url, token_file) as client:
        jobs = list(client.jobs.list())
    if json:
        print_json([job.model_dump(mode="json") for job in jobs])
        return
    table = Table(Column("job", min_width=24), "status", "begun", "videos", "failed", "models", box=None)
    for job in jobs:
        begun = f"{job.created:%Y-%m-%d %H:%M}"
        counts = (str(job.counts.total), str(job.counts.failed))
        table.add_row(*map(Text, (job.id, job.status, begun, *counts, ", ".join(job.models))))
    print_table(table)


@app.command()
def show(job_id: JobId, url: Url = HERE, token_file: TokenFile = None, json: Json = False) -> None:
    """How far a job is."""
    with connect(url, token_file) as client:
        job = client.jobs.show(job_id)
    if json:
        print_json(job.model_dump(mode="json"))
    else:
        Console(highlight=False, soft_wrap=True).print(_line(job), markup=False)


@app.command()
def cancel(job_id: JobId, url: Url = HERE, token_file: TokenFile = None) -> None:
    """Stop a job."""
    with connect(url, token_file) as client:
        say(_line(client.jobs.cancel(job_id)))


@app.command()
def watch(job_id: JobId, url: Url = HERE, token_file: TokenFile = None) -> None:
    """Tell what happens to a job, until it is finished."""
    with connect(url, token_file) as client:
        job = client.jobs.wait(job_id, _say_event)
        _say_errors(client, job)
    _end(job)


@app.command()
def results(
    job_id: JobId,
    url: Url = HERE,
    token_file: TokenFile = None,
    out: Out = None,
    to: To = None,
    model: Annotated[
        str | None, typer.Option(help="Of this model alone.", show_default="all; in a file the first")
    ] = None,
    min_score: MinScore = 0.0,
    json: Json = False,
) -> None:
    """What a job has found so far; in a file, once it is finished."""
    if to is not None and out is None:
        raise typer.BadParameter("goes with --out", param_hint="--to")
    with connect(url, token_file) as client:
        _finished(client, client.jobs.show(job_id), out, to, json, model, min_score)


def _finished(
    client: Client,
    job: Job,
    out: str | None,
    to: Format | None,
    json: bool,
    model: str | None = None,
    min_score: float = 0.0,
) -> None:
    """Print or write what a job found, tell what failed, and end with the code that says so."""
    if job.status not in ("failed", "cancelled"):
        if out is not None:
            form = to or _format(out)
            kind = client.jobs.export(job.id, form, out, model=model, min_score=min_score)
            say(f"{form} -> {out}{' (a zip file)' if kind == 'application/zip' else ''}")
        else:
            pages = client.jobs.results(job.id, model=model, min_score=min_score)
            _print(client, pd.concat(pages, ignore_index=True), json)
    _say_errors(client, job)
    _end(job)


def _format(out: str) -> Format:
    known: dict[str, Format] = {".csv": "csv", ".vtt": "vtt", ".srt": "srt", ".eaf": "eaf", ".otio": "otio"}
    return known.get(PurePosixPath(out).suffix.lower(), "json")


def _print(client: Client, found: pd.DataFrame, json: bool) -> None:
    if json:
        rows = found.to_dict("records")  # not every model tells tags
        print_json([{k: v for k, v in row.items() if k != "tags" or isinstance(v, list)} for row in rows])
        return
    names = {video.video_id: video.name for video in client.videos()}
    table = Table("video", "model", "start", "end", "score", "step", box=None)
    for row in found.itertuples():
        times = (f"{row.start:.2f}", f"{row.end:.2f}", f"{row.score:.2f}")
        table.add_row(*map(Text, (names.get(row.video_id, row.video_id), row.model, *times)), step(row))
    print_table(table)


def _say_event(event: Event) -> None:
    if event.name == "status":
        say(event.data["status"])
    elif event.name == "progress" and event.data["total"]:
        say(f"  {event.data['done']} of {event.data['total']} {event.data['unit']}")


def _say_errors(client: Client, job: Job) -> None:
    for failure in client.jobs.errors(job.id):
        say(f"failed: {failure.input}: {failure.stage}: {failure.type}: {failure.message}")
    say(_line(job))


def _line(job: Job) -> str:
    counts, progress = job.counts, job.progress
    told = f"job {job.id}: {job.status}"
    if not job.finished:
        return f"{told}, {progress.done} of {progress.total} {progress.unit}" if progress.total else told
    skipped = f", {counts.skipped} skipped" if counts.skipped else ""
    reason = f"; {job.error}" if job.error else ""
    return f"{told}; {counts.ok} of {counts.total} videos ok, {counts.failed} failed{skipped}{reason}"


def _end(job: Job) -> None:
    """End as `balletal score` does: 1, the job came to nothing; 3, some videos failed."""
    if job.status in ("failed", "cancelled"):
        finish(FAILED)
    if job.counts.failed:
        finish(SOME_VIDEOS_FAILED)


if __name__ == "__main__":
    run(app)
