"""`balletal report`: one self-contained HTML file for a training run or a comparison."""

from pathlib import Path
from typing import Annotated

import typer

from balletal import files
from balletal.report.html import render
from balletal.report.runs import read_results
from workflows.console import run, say


def report(folder: str | Path, out: str | Path | None = None, videos: int | None = None) -> str:
    """Write the report of a train run or compare directory (default: ``report.html`` inside it); returns its place.

    Args:
        videos: draw timelines of at most so many videos, those with the most annotated steps.

    Raises:
        InputError: the folder holds no results.
    """
    page = render(read_results(folder), videos)
    out = str(out or Path(folder) / "report.html")
    files.write_bytes(out, page.encode())
    return out


def main(
    run_dir: Annotated[Path, typer.Argument(help="Folder that `balletal train` or `balletal compare` wrote.")],
    out: Annotated[str | None, typer.Option(help="The file to write.", show_default="RUN_DIR/report.html")] = None,
    videos: Annotated[
        int | None, typer.Option(min=0, help="Draw timelines of at most so many videos.", show_default="all")
    ] = None,
) -> None:
    """Write one HTML file with metrics, curves, a per-class table and a timeline for each video."""
    say(f"wrote {report(run_dir, out, videos)}")


if __name__ == "__main__":
    run(main)
