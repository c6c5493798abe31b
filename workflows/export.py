"""Detections for other programs: tables, subtitles, editors, annotation tools. `python -m workflows.export`."""

import dataclasses
import math
from typing import Annotated, Literal

import typer

from balletal.annotations import Annotations, read_annotations
from balletal.annotations.exchange import write_exchange
from balletal.errors import InputError
from workflows.annotations import write
from workflows.console import run, say

Format = Literal["json", "csv", "vtt", "srt", "eaf", "otio", "label-studio"]


def export(detections: str, to: Format, out: str, min_score: float = 0.0) -> Annotations:
    """Write detections of at least ``min_score`` as ``to``; returns what was written.

    Raises:
        InputError: not a file of detections.
    """
    found = read_annotations(detections)
    for problem in found.problems:
        say(f"left out: {problem.where}:{problem.row} {problem.kind}: {problem.message}")
    if "score" not in found.segments:
        raise InputError(detections, expected="detections with scores", found="segments (see annotations convert)")
    kept = found.segments[~(found.segments["score"] < min_score)].reset_index(drop=True)
    found = dataclasses.replace(found, segments=kept)
    if to in ("json", "csv", "vtt"):
        write(found, "activitynet" if to == "json" else to, out)
    else:
        write_exchange(out, found, to)
    return found


def main(
    detections: Annotated[
        str, typer.Argument(metavar="DETECTIONS", help="detections.parquet, a folder of parts, or JSON.")
    ],
    to: Annotated[Format, typer.Option(help="ActivityNet JSON, CSV, subtitles, ELAN, OpenTimelineIO or Label Studio.")],
    out: Annotated[str, typer.Option(help="File to write; for vtt, srt, eaf or otio of several videos a folder.")],
    min_score: Annotated[float, typer.Option(help="Leave out detections below this score.")] = 0.0,
) -> None:
    """Write detections for other programs."""
    if math.isnan(min_score):  # every score would pass
        raise typer.BadParameter("nan is no score", param_hint="--min-score")
    written = export(detections, to, out, min_score)
    say(f"{len(written.segments)} detections of {len(written.videos)} videos -> {out}")


if __name__ == "__main__":
    run(main)
