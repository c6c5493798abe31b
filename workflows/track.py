"""Where the dancer is in a video: a crop track, drawn over it. `python -m workflows.track`.

video -> track at the analysis rate -> a table, a video with the square and what the network sees, a summary
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from balletal import files
from balletal.errors import InputError
from balletal.parquet import write_table
from balletal.synthetic.encode import write_mp4
from balletal.video.decode import iter_frames
from balletal.video.track import TRACKER, CropTrack, track_dancer
from workflows.console import print_json, run, say

_LONGEST = 1280  # pixels of the overlay
_YELLOW, _RED = (255, 220, 0), (255, 60, 60)


def track(video: str, fps: float = 25.0, *, out: str | None = None, table: str | None = None) -> dict[str, Any]:
    """Track the dancer of one video.

    Args:
        video: path or URI.
        fps: analysis rate, frames a second.
        out: MP4 file to write: the analysis frames with the square drawn, and the square's content in a corner.
        table: Parquet file of :data:`schemas.arrow.TRACKS` to write.

    Returns:
        ``video``, ``tracker``, ``fps``, ``frames``, ``seconds``, ``mover_seconds`` (the rest is seen whole), ``shots``,
        ``median_side`` (share of the short side, where somebody moves; None where nobody does).

    Raises:
        InputError: a rate that is none, or a file that cannot be written.
        VideoError: a video that cannot be used.
    """
    _require_apart(video, out, table)
    if out is not None and not out.lower().endswith(".mp4"):
        raise InputError(out, expected="a name that ends in .mp4", found="another")
    if out is not None and files.exists(out) and not files.is_file(out):
        raise InputError(out, expected="the name of a file to write", found="a folder")
    found = track_dancer(video, fps)
    if table is not None:
        write_table(table, found.to_table())
    if out is not None:
        _write_overlay(out, video, found)
    moving = found.side[found.mover]
    return {
        "video": video,
        "tracker": TRACKER,
        "fps": fps,
        "frames": len(found),
        "seconds": round(len(found) / fps, 3),
        "mover_seconds": round(int(found.mover.sum()) / fps, 3),
        "shots": int(found.shot[-1]) + 1 if len(found) else 0,
        "median_side": round(float(np.median(moving)), 3) if len(moving) else None,
    }


def _require_apart(video: str, *outs: str | None) -> None:
    """A file that is written must not be the video itself, nor be written twice."""
    places = [os.path.realpath(files.absolute(video))]
    for out in outs:
        if out is not None:
            place = os.path.realpath(files.absolute(out))
            if place in places:
                raise InputError(out, expected="a file of its own to write", found="the video, or the other output")
            places.append(place)


def _write_overlay(out: str, video: str, found: CropTrack) -> None:
    """In a folder of its own first, and not through memory: an overlay may be larger than that."""
    with tempfile.TemporaryDirectory(prefix="balletal-") as folder:
        path = Path(folder) / "overlay.mp4"
        write_mp4(path, _drawn(video, found), np.arange(len(found)) / found.fps, fps=found.fps)
        files.put_file(path, out)


def _drawn(video: str, found: CropTrack) -> Iterator[NDArray[np.uint8]]:
    for k, frame in enumerate(iter_frames(video, found.fps, _LONGEST)):
        yield draw(frame, found, k)


def draw(frame: NDArray[np.uint8], found: CropTrack, k: int) -> NDArray[np.uint8]:
    """A picture with row ``k`` of a track: the square, and its content as a network of square input sees it.

    Args:
        frame: (height, width, 3) uint8 RGB.
    """
    height, width = frame.shape[:2]
    seen, colour = frame, _RED
    picture = frame.copy()
    if found.mover[k]:
        left, top, right, bottom = (round(side) for side in found.box(k, width, height))
        seen, colour = frame[top:bottom, left:right], _YELLOW
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 2)
    inset = max(1, min(height, width) // 4)
    picture[height - inset :, :inset] = cv2.resize(seen, (inset, inset), interpolation=cv2.INTER_AREA)
    cv2.rectangle(picture, (0, height - inset), (inset - 1, height - 1), colour, 1)
    what = f"{k / found.fps:.2f} s  shot {found.shot[k]}  {'' if found.mover[k] else 'full: nobody moves'}"
    size = min(height, width) / 720
    place = (round(16 * size), round(32 * size))
    for thick, shade in ((3, (0, 0, 0)), (1, colour)):
        cv2.putText(picture, what, place, cv2.FONT_HERSHEY_SIMPLEX, size, shade, thick, cv2.LINE_AA)
    return picture


def main(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path or URI of one video.")],
    out: Annotated[str | None, typer.Option(help="MP4 to write: the video with the square drawn over it.")] = None,
    table: Annotated[str | None, typer.Option(help="Parquet to write: the square at every analysis frame.")] = None,
    fps: Annotated[float, typer.Option(help="Analysis rate, frames a second.")] = 25.0,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Find the dancer by motion, and draw the square crop that follows her over the video."""
    summary = track(video, fps, out=out, table=table)
    if json:
        print_json(summary)
        return
    say(
        f"{summary['seconds']} s in {summary['shots']} shots, somebody moves in {summary['mover_seconds']} s, "
        f"median side {summary['median_side']}"
    )
    for written in (table, out):
        if written is not None:
            say(f"-> {written}")


if __name__ == "__main__":
    run(main)
