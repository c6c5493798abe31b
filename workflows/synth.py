"""`balletal synth`: a small set of drawn clips with exact annotations, for trying everything without data."""

from typing import Annotated

import typer

from balletal.synthetic.clips import write_clips
from workflows.console import print_json, run, say


def main(
    out: Annotated[str, typer.Option(help="Folder or URI: gets videos/*.mp4 and annotations.json.")],
    videos: Annotated[int, typer.Option(help="How many clips.")] = 12,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 20.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same clips.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print counts as JSON.")] = False,
) -> None:
    """Draw a small demonstration set: a stick dancer performing five classes, annotated exactly."""
    database = write_clips(out, videos, seconds, seed)["database"]
    steps = sum(len(video["annotations"]) for video in database.values())
    if json:
        print_json({"out": out, "videos": len(database), "segments": steps})
    else:
        say(f"wrote {len(database)} clips with {steps} steps to {out}")


if __name__ == "__main__":
    run(main)
