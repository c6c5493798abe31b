"""Draw a corpus of synthetic ballet: video, joints and exact annotations. `python -m workflows.synth`.

settings -> which videos are missing -> draw (a task each) -> annotations, dataset card

A video is done when its joints are there, which are written after its pictures; that is all that a resumed job needs
to know. The annotations are written last, from the videos' own records.
"""

import time
from collections import Counter
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import cv2
import ray
import typer
from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

from balletal import files
from balletal.errors import BalletalError, InputError
from balletal.synthetic.card import dataset_card
from balletal.synthetic.corpus import (
    GENERATOR,
    VideoRecord,
    check_settings,
    drawn_videos,
    read_record,
    video_id,
    write_annotations,
    write_video,
)
from balletal.synthetic.presets import PRESETS
from workflows.cluster import ray_session
from workflows.config import claim
from workflows.console import print_json, run, say

PresetName = Literal["easy", "stage", "wild"]

_PROGRESS_S = 10.0
_MOST_VIDEOS = 1_000_000


def synth(
    out: str,
    videos: int,
    seconds: float,
    *,
    seed: int = 0,
    preset: PresetName = "stage",
    size: tuple[int, int] = (480, 270),
    address: str | None = None,
) -> dict[str, Any]:
    """Draw the videos of a corpus that are not in ``out`` yet, and write the annotations of all.

    Args:
        out: folder or fsspec URI: ``videos/``, ``joints/``, ``via/``, ``annotations.json``, ``card.md`` and
            ``config.yaml``, as the card says.
        seconds: of each video; its last picture may end a little later.
        size: width and height in pixels.

    Returns:
        ``out``, ``preset``, ``videos``, ``segments``, ``labels`` (steps and tags by label), ``video_seconds``,
        ``wall_seconds``, ``resumed`` (videos that were there), ``times_real_time`` (seconds of video drawn in a second;
        None when none was).

    Raises:
        InputError: settings that make no corpus, or a folder that holds another one or a larger one.
    """
    started = time.monotonic()
    if not 1 <= videos <= _MOST_VIDEOS:
        raise InputError("videos", expected=f"at least 1, at most {_MOST_VIDEOS}", found=str(videos))
    check_settings(seed, seconds, size)
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}", expected=f"one of {', '.join(PRESETS)}", found="another")
    if files.exists(files.join(out, "annotations.json")) and not files.exists(files.join(out, "config.yaml")):
        raise InputError(out, expected="an empty folder or one of a corpus", found="annotations of something else")
    claim(out, {"generator": GENERATOR, "seed": seed, "seconds": seconds, "preset": preset, "size": list(size)})
    names = [video_id(index) for index in range(videos)]
    there = drawn_videos(out)
    if more := there - set(names):
        expected = f"as many --videos as the corpus has, at least {len(there)}"
        raise InputError(out, expected=expected, found=f"{videos}, and {min(more)} is there")
    missing = [index for index, name in enumerate(names) if name not in there]
    say(f"{videos} videos of {seconds:g} s, {len(there)} there already")
    records = [read_record(out, name) for name in sorted(there)]  # what is wrong with one is told before any work

    with ray_session(address) if missing else nullcontext():
        drawn = _draw_all(files.absolute(out), missing, seed, seconds, preset, size)
    if lost := set(names) - drawn_videos(out):
        expected = "a place that all of Ray's workers write to"
        raise InputError(out, expected=expected, found=f"{len(lost)} drawn videos not there, such as {min(lost)}")
    records = sorted(records + drawn, key=lambda record: record.video_id)
    card = dataset_card(records, seed=seed, seconds=seconds, preset=preset, size=size)
    write_annotations(out, records, card)

    wall = time.monotonic() - started
    labels = Counter(segment.label for record in records for segment in record.segments)
    return {
        "out": out,
        "preset": preset,
        "videos": videos,
        "segments": labels.total() - labels["Backwards"],
        "labels": dict(sorted(labels.items())),
        "video_seconds": round(sum(record.duration for record in records), 3),
        "wall_seconds": round(wall, 2),
        "resumed": len(there),
        "times_real_time": round(sum(record.duration for record in drawn) / wall, 2) if drawn else None,
    }


def _draw_all(
    out: str, indices: list[int], seed: int, seconds: float, preset: str, size: tuple[int, int]
) -> list[VideoRecord]:
    """Draw videos in parallel. The first that fails ends the job; what is drawn stays."""
    waiting = {_draw.remote(out, index, seed, seconds, preset, size): index for index in indices}
    records: list[VideoRecord] = []
    started = said = time.monotonic()
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            name = video_id(waiting.pop(done))
            try:
                records.append(ray.get(done))
            except (BalletalError, OSError) as error:
                raise BalletalError(f"video {name}: {getattr(error, 'cause', error)}") from None
            except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
                raise BalletalError(f"video {name}: {str(error).splitlines()[0]} ({type(error).__name__})") from None
            except Exception as error:
                error.add_note(f"while video {name} was drawn")
                raise
            now = time.monotonic()
            if now - said >= _PROGRESS_S or not waiting:
                said = now
                rate = sum(record.duration for record in records) / (now - started)
                say(f"{len(records)} of {len(indices)} videos, {rate:.1f} times real time")
    finally:
        for task in waiting:  # a cluster that was joined would go on with them
            ray.cancel(task)
    return records


@ray.remote(num_cpus=1)
def _draw(out: str, index: int, seed: int, seconds: float, preset: str, size: tuple[int, int]) -> VideoRecord:
    cv2.setNumThreads(1)  # a task has one CPU
    return write_video(out, index, seed, seconds, PRESETS[preset], size)


def _size(text: str) -> tuple[int, int]:
    width, x, height = text.partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise InputError("--size", expected="WIDTHxHEIGHT such as 480x270", found=text)
    return int(width), int(height)


def main(
    out: Annotated[str, typer.Option(help="Folder or URI: gets videos, joints, annotations and a dataset card.")],
    videos: Annotated[int, typer.Option(help="How many. More, later, only add to the corpus.")] = 12,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 20.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same corpus.")] = 0,
    preset: Annotated[
        PresetName, typer.Option(help="How hard: one large dancer; a competition's stage; whatever is uploaded.")
    ] = "stage",
    size: Annotated[str, typer.Option(help="Width and height in pixels; upright videos swap them.")] = "480x270",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Draw a corpus of synthetic ballet: dancers performing AnnChor's steps, annotated exactly."""
    summary = synth(out, videos, seconds, seed=seed, preset=preset, size=_size(size), address=address)
    if json:
        print_json(summary)
    else:
        rate = summary["times_real_time"]
        speed = f", {rate} times real time" if rate else ""
        say(
            f"{summary['videos']} videos with {summary['segments']} steps ({summary['resumed']} there already), "
            f"{summary['wall_seconds']} s{speed} -> {out}"
        )


if __name__ == "__main__":
    run(main)
