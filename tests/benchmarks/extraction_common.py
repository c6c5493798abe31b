"""What the parts of the extraction benchmark share: a row of the table, the machine, videos to run on."""

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import torch

from balletal.errors import InputError
from balletal.video.probe import VIDEO_SUFFIXES


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        part: of the benchmark.
        what: was measured.
        value: None where it was not run; ``note`` says why.
        unit: such as ``x`` for a ratio.
        note: what a reader needs to know beside it.
    """

    part: str
    what: str
    value: float | None
    unit: str
    note: str = ""

    def line(self) -> str:
        value = "not run" if self.value is None else f"{self.value:.{_digits(self.value)}f} {self.unit}".strip()
        return f"| {self.part} | {self.what} | {value} | {self.note} |"


def _digits(value: float) -> int:
    if 0.9 < value < 1:  # cosines
        return 5
    return 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0


def machine(device: str) -> str:
    """Where and when, in one line."""
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    flags = torch.backends.cpu.get_cpu_capability()
    said = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {model or platform.machine()} ({flags}), {os.cpu_count()} cores"
    said += f", {torch.get_num_threads()} threads, torch {torch.__version__}"
    return said + (f", {torch.cuda.get_device_name(device)}" if device != "cpu" else "")


def load() -> str:
    """The load average of the last minute: what else the machine does is in every number."""
    return f"load average {os.getloadavg()[0]:.1f}"


def find_videos(folder: str | None) -> list[Path]:
    """Videos below ``folder``; by default AnnChor's originals beside the project, as tests find them."""
    if folder is None:
        shared = Path(os.environ.get("BALLETAL_SHARED", Path(__file__).resolve().parents[3] / "shared"))
        folder = str(shared / "annchor" / "AnnChor1000-Original-Videos")
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise InputError(folder, expected="videos", found="none")
    return found


def cut(video: Path, seconds: float, folder: Path) -> Path:
    """The first ``seconds`` of a video as a file of its own, not encoded anew."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{video.stem}.mp4"
    with av.open(str(video)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in _packets(source):
            if packet.dts * packet.time_base >= seconds:
                break
            packet.stream = stream
            out.mux(packet)
    return target


def repeat(video: Path, times: int, target: Path) -> Path:
    """A video ``times`` over in one file, not encoded anew."""
    with av.open(str(target), "w") as out:
        stream = None
        shift = 0
        for _ in range(times):
            end = 0
            with av.open(str(video)) as source:
                if stream is None:
                    stream = out.add_stream_from_template(source.streams.video[0])
                for packet in _packets(source):
                    packet.pts += shift
                    packet.dts += shift
                    end = max(end, packet.pts + packet.duration)
                    packet.stream = stream
                    out.mux(packet)
            shift = end
    return target


def _packets(container: Any) -> Iterator[Any]:
    """Packets of the pictures; the empty one at the end, which flushes a decoder, is left out."""
    return (packet for packet in container.demux(container.streams.video[0]) if packet.dts is not None)
