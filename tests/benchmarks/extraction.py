"""Speed, precision, use of the cores and memory of feature extraction: `python -m tests.benchmarks.extraction`.

Prints one Markdown table. Parts:

- `speed`: video-seconds a second, each way in turn on the same videos with the same weights: (a) plain public practice
  (float32, contiguous, nothing folded, whole video decoded first, one clip of 16 frames every 4 at a time), (b) ours,
  windowed, (c) ours, dense. A feature counts as the seconds to the next one.
- `compile`: what `torch.compile` gains.
- `precision`: cosine of features in half precision with those in float32.
- `pipeline`: the whole job against decoding alone and the network alone. CPU only.
- `memory`: peak of the whole job for a minute and for two hours of video. CPU only.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from balletal.video.probe import probe
from tests.benchmarks import extraction_job as job
from tests.benchmarks import extraction_model as model
from tests.benchmarks.extraction_common import Row, cut, find_videos, load, machine

PARTS = ("speed", "compile", "precision", "pipeline", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", help="folder of videos (default: AnnChor's originals beside the project)")
    parser.add_argument("--seconds", type=float, default=10, help="of each of three videos, for speed and precision")
    parser.add_argument("--plain-seconds", type=float, default=2, help="of them for the ways that take long")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over the videos, for speed")
    parser.add_argument("--pipeline-seconds", type=float, default=30, help="of every video; windowed: a quarter")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print rows as JSON, one a line")
    args = parser.parse_args()

    head = f"{machine(args.device if torch.cuda.is_available() else 'cpu')}; {load()} at the start"
    if not args.json:
        print(head, "", "| part | what | result | remark |", "| --- | --- | --- | --- |", sep="\n", flush=True)
    for part in PARTS:
        for row in _rows(part, args) if part in args.parts else ():
            print(json.dumps(asdict(row) | {"machine": head}) if args.json else row.line(), flush=True)


def _rows(part: str, args: argparse.Namespace) -> Iterator[Row]:
    device: str = args.device
    if device != "cpu" and not torch.cuda.is_available():
        yield Row(part, device, None, "", "not run on a GPU: there is none")
        return
    if device != "cpu" and part in ("pipeline", "memory"):
        return
    folder = Path(tempfile.mkdtemp(prefix="balletal-benchmark-"))
    try:
        if part == "memory":
            yield from job.memory(folder)
            return
        videos = find_videos(args.videos)
        if part == "pipeline":
            yield from job.pipeline(videos, folder, args.pipeline_seconds)
            return
        cuts = [cut(video, args.seconds, folder / "cut") for video in videos[:: max(1, len(videos) // 3)][:3]]
        short = [cut(video, min(probe(str(video)).duration, args.plain_seconds), folder / "short") for video in cuts]
        if part == "speed":
            yield from model.speed(cuts, short, device, args.repeats)
        elif part == "compile":
            yield from model.compiled(short, device, args.repeats)
        else:
            yield from model.precision(cuts, device)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
