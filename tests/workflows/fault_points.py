"""Points in an extraction where a test can make something happen, and what happens there.

Imported by the decoders' process as well, so it imports no Ray and nothing of the workflows.
"""

import contextlib
import errno
import os
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from balletal.video import decode, track
from balletal.video.decode import Frames

Moment = Literal["listed", "probe", "track", "decode", "backbone", "before rename", "after rename"]

_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Fault:
    """What happens when an extraction first comes to a point.

    Attributes:
        moment: ``track``, ``decode`` and ``backbone`` are in the midst of that work, the first two in the decoders'
            process; a rename is the one of a unit's file.
        folder: where the processes of a test leave each other marks.
        video: the video id at which it happens; any when empty.
        do: ``wait`` stands still, once, until :meth:`go`; ``crash`` and ``hang`` do so each time; ``full``: a disk is.
    """

    moment: Moment
    folder: str
    video: str = ""
    do: Literal["wait", "crash", "hang", "full"] = "wait"

    def reach(self, moment: Moment, video: str = "") -> None:
        if moment != self.moment or (self.video and video and self.video != video):
            return
        if self.do == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.do == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.do == "hang":
            time.sleep(_PATIENCE_S)
        mine = Path(self.folder) / uuid.uuid4().hex
        mine.write_text(f"{os.getpid()} {os.getppid()} {video}")
        try:
            os.link(mine, self._mark)
        except FileExistsError:
            return  # it happened already
        _until((Path(self.folder) / "go").exists)

    def reached(self) -> tuple[int, int, str] | None:
        """Process that stands at the point, its parent, and the video; None until one does."""
        if not self._mark.exists():
            return None
        process, parent, video = self._mark.read_text().split(" ")
        return int(process), int(parent), video

    def go(self) -> None:
        (Path(self.folder) / "go").touch()

    @property
    def _mark(self) -> Path:
        return Path(self.folder) / "reached"


def _until(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_frames(fault: Fault, video: str, *args: Any, **kwargs: Any) -> Frames:
    """:func:`balletal.video.decode.read_frames`, with the fault after some pictures."""
    with _amid_pictures(fault, "decode", video):
        return decode.read_frames(*args, **kwargs)


def track_dancer(fault: Fault, video: str, *args: Any) -> track.CropTrack:
    """:func:`balletal.video.track.track_dancer`, with the fault after some pictures."""
    with _amid_pictures(fault, "track", video):
        return track.track_dancer(*args)


@contextlib.contextmanager
def _amid_pictures(fault: Fault, moment: Moment, video: str) -> Iterator[None]:
    decoded = decode._decoded

    def disturbed(*args: Any) -> Iterator[Any]:
        for number, picture in enumerate(decoded(*args)):
            if number == 5:
                fault.reach(moment, video)
            yield picture

    with patch.object(decode, "_decoded", disturbed):
        yield


@contextlib.contextmanager
def around_rename(fault: Fault, video: str) -> Iterator[None]:
    """The fault just before or just after a unit's file gets its name."""
    rename = Path.replace

    def disturbed(path: Path, target: Path) -> Path:
        if "/features/" not in str(target):
            return rename(path, target)
        fault.reach("before rename", video)
        renamed = rename(path, target)
        fault.reach("after rename", video)
        return renamed

    with patch.object(Path, "replace", disturbed):
        yield
