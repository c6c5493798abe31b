"""`balletal request`: ask a service that runs somewhere. No model is loaded and no Ray started."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from balletal import files
from balletal.client import Client, ServiceError, Upload, Video
from balletal.errors import InputError
from workflows.console import print_json, run, say, stderr

URL, TOKEN = "BALLETAL_URL", "BALLETAL_TOKEN"
"""Of the environment: the service, and the token that it is asked with."""

app = typer.Typer(help="Ask a running service: localize in a short video, upload, models.", no_args_is_help=True)

Url = Annotated[str, typer.Option(envvar=URL, help="The service.")]
TokenFile = Annotated[str | None, typer.Option(help=f"File that holds your token; or in the environment: {TOKEN}.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
MinScore = Annotated[float, typer.Option(min=0, max=1, help="Lowest score.")]
TopK = Annotated[int | None, typer.Option(min=1, help="At most so many segments of a video, the best.")]
HERE = "http://127.0.0.1:8000"


def token_of(token_file: str | None) -> str | None:
    """The token of a file, else of the environment, else none.

    Raises:
        InputError: no such file, or no token in it. Does not tell what is there.
    """
    token = os.environ.get(TOKEN) if token_file is None else files.read_bytes(token_file).decode("latin-1").strip()
    if token_file is not None and not token:
        raise InputError(token_file, expected="a token", found="nothing")
    return token or None


def connect(url: str, token_file: str | None) -> Client:
    """A client with a token as of :func:`token_of`.

    Raises:
        InputError: as there; no URL of a service, or no token.
    """
    return Client(url, token_of(token_file))


def print_table(table: Table) -> None:
    """A result for a person, on stdout; all of it where that is no terminal."""
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


def step(row: Any) -> Text:
    """The label of a row of a segment table, and its tags."""
    tags = getattr(row, "tags", None)
    return Text(f"{row.label} ({', '.join(tags)})" if isinstance(tags, list) and tags else row.label)


def send(client: Client, path: str, resume: str | None = None) -> Video:
    """Upload a file, and show on a terminal how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(Path(path).name, total=Path(path).stat().st_size if Path(path).is_file() else None)
        upload_id = resume

        def told(upload: Upload) -> None:
            nonlocal upload_id
            upload_id = upload.id
            bar.update(task, completed=upload.offset)

        try:
            return client.upload(path, resume=resume, progress=told)
        except (ServiceError, KeyboardInterrupt) as error:
            lasting = isinstance(error, ServiceError) and error.status is not None and error.status < 500
            if upload_id is not None and not lasting:
                say(f"to go on: balletal request upload {shlex.quote(path)} --resume {upload_id}")
            raise


def video_input(given: str) -> dict[str, str]:
    """What a word of a command line names: ``path``, a file here; ``video_id``; ``uri``, or ``prefix`` with a slash.

    ``file://`` stands before a path of the service's machine.

    Raises:
        InputError: nothing of these.
    """
    if Path(given).is_file():
        return {"path": given}
    if len(given) == 24 and set(given) <= set("0123456789abcdef"):
        return {"video_id": given}
    if "://" in given:
        return {"prefix" if given.endswith("/") else "uri": given.removeprefix("file://")}
    raise InputError(given, expected="a video's file, the id of one that was uploaded, or a URI", found="none of these")


@app.command()
def localize(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A file, the id of an uploaded video, or a URI.")],
    url: Url = HERE,
    token_file: TokenFile = None,
    model: Annotated[str | None, typer.Option(help="name or name@version; none: the service's default.")] = None,
    start: Annotated[float | None, typer.Option(min=0, help="Second to localize from.")] = None,
    end: Annotated[float | None, typer.Option(min=0, help="Second to localize up to.")] = None,
    min_score: MinScore = 0.0,
    top_k: TopK = None,
    json: Json = False,
) -> None:
    """Find the steps in a short video, or in a part of a longer one."""
    named: dict[str, Any] = video_input(video)
    if "prefix" in named:
        raise InputError(video, expected="one video", found="a folder (balletal jobs submit takes it)")
    try:
        with connect(url, token_file) as client, stderr.status("localizing"):
            result = client.localize(**named, model=model, start=start, end=end, min_score=min_score, top_k=top_k)
    except ServiceError as error:
        if error.type == "urn:balletal:use-async":
            say(f"for all of it: balletal jobs submit {shlex.quote(video)} --wait")
        raise
    for warning in result.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(result.body)
        return
    table = Table("start", "end", "score", "step", box=None)
    for row in result.segments.itertuples():
        table.add_row(f"{row.start:.2f}", f"{row.end:.2f}", f"{row.score:.2f}", step(row))
    print_table(table)
    name = "{name}@{version}".format(**result.model)
    say(f"{len(result.segments)} steps in {result.video['duration']:.2f} s of video, by {name}")


@app.command()
def upload(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A file.")],
    url: Url = HERE,
    token_file: TokenFile = None,
    resume: Annotated[str | None, typer.Option(help="Id of an upload of this file that was cut short.")] = None,
    json: Json = False,
) -> None:
    """Send a video of any length; jobs and requests can then name it by its id."""
    with connect(url, token_file) as client:
        sent = send(client, video, resume)
    if json:
        print_json(sent.model_dump(mode="json"))
    else:
        Console(highlight=False).print(sent.video_id)
        say(f"{sent.name}: {sent.duration:.2f} s, {sent.width} x {sent.height}, {sent.codec}")
    for warning in sent.warnings:
        say(f"warning: {warning}")


@app.command()
def models(url: Url = HERE, token_file: TokenFile = None, json: Json = False) -> None:
    """The models that the service has."""
    with connect(url, token_file) as client:
        found = client.models()
    if json:
        print_json(found.model_dump(mode="json"))
        return
    table = Table("model", "", "steps", "features", "digest", box=None)
    for one in found.models:
        features = f"{one.feature.extractor}, every {one.feature.stride_s:g} s"
        default = "default" if one.id == found.default else ""
        table.add_row(*map(Text, (one.id, default, str(len(one.labels)), features, one.digest[:12])))
    print_table(table)


if __name__ == "__main__":
    run(app)
