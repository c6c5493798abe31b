"""A corpus of drawn ballet: video, joints and annotations of each performance, from a seed.

Every video is drawn from random numbers of its own, which its index and the corpus's seed give: it is the same however
many there are, wherever and in whatever order they are drawn. Choreography, picture and file have separate numbers, so
that another picture size or code leaves the annotations as they are.
"""

import io
import json
import string
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from balletal import files
from balletal.annotations.activitynet import write_activitynet
from balletal.annotations.table import Annotations, video_table
from balletal.annotations.via import write_via_csv
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.segments import segment_table
from balletal.synthetic.body import JOINTS
from balletal.synthetic.dance import Segment
from balletal.synthetic.encode import frame_rate, frame_times, write_mp4
from balletal.synthetic.music import Sound, compose
from balletal.synthetic.performance import Performance, perform
from balletal.synthetic.picture import Picture
from balletal.synthetic.presets import Preset
from schemas import arrow

GENERATOR = 1
"""Raised whenever the same seed gives other videos than before, so that no corpus is a mixture."""

_LETTERS = string.ascii_uppercase
_RECORD = b"balletal.video"
_LONGEST = 3600.0  # seconds


@dataclass(frozen=True)
class VideoRecord:
    """What is known of one video. The metadata of its joints file holds it, so that a resumed job can read it there.

    Attributes:
        duration: seconds to the end of the last picture.
        fps: pictures a second, on average.
        sound: of the sound track; None without one.
        dancers: the annotated one included; musicians are none.
        style: ``woman`` or ``man``, of the annotated dancer.
        look: what was drawn by lot: kind of camera, place, costume, number of other people in the picture.
    """

    video_id: str
    subset: str
    duration: float
    fps: float
    frames: int
    width: int
    height: int
    vfr: bool
    crf: int
    sound: Sound | None
    dancers: int
    style: str
    look: dict[str, str]
    segments: tuple[Segment, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "VideoRecord":
        data: dict[str, Any] = json.loads(text)
        return cls(**data | {"segments": tuple(Segment(**segment) for segment in data["segments"])})


def video_id(index: int) -> str:
    """The id of a corpus's video: three letters for its choreography, and four digits, as AnnChor's are.

    >>> [video_id(i) for i in (0, 27, 26**3)]
    ['AAA0000', 'ABB0000', 'AAA0001']
    """
    digits, rest = divmod(index, len(_LETTERS) ** 3)
    places = (rest // len(_LETTERS) ** power % len(_LETTERS) for power in (2, 1, 0))
    return "".join(_LETTERS[place] for place in places) + f"{digits:04d}"


def subset_of(index: int) -> str:
    """A sixth of the videos each is for validation and for testing, by index: a longer corpus only adds."""
    return {2: "validation", 5: "testing"}.get(index % 6, "training")


def video_uri(out: str, name: str) -> str:
    return files.join(out, "videos", f"{name}.mp4")


def joints_uri(out: str, name: str) -> str:
    return files.join(out, "joints", f"{name}.parquet")


@dataclass(frozen=True)
class _Code:
    """How a video is filmed and coded."""

    portrait: bool
    vfr: bool
    fps: float
    crf: int
    exposure: float  # seconds
    sound: Sound | None


def _random_code(random: np.random.Generator, preset: Preset) -> _Code:
    portrait = bool(random.random() < preset.portrait)
    vfr = bool(random.random() < preset.vfr)
    fps = float(random.choice(preset.fps))
    crf = int(random.integers(preset.crf[0], preset.crf[1] + 1))
    share, heard, pick = random.uniform(*preset.exposure), random.random() < preset.audio, random.random()
    sound: Sound = "waltz" if pick < 0.45 else "march" if pick < 0.9 else "silence"
    fps = 30.0 if vfr else fps  # what telephones aim at
    return _Code(portrait, vfr, fps, crf, float(share / fps), sound if heard else None)


def write_video(out: str, index: int, seed: int, seconds: float, preset: Preset, size: tuple[int, int]) -> VideoRecord:
    """Draw one video of a corpus: ``<out>/videos/<id>.mp4`` and then ``<out>/joints/<id>.parquet``.

    Args:
        out: folder or fsspec URI.
        seconds: pictures are drawn for times below this one.
        size: width and height in pixels, even; an upright picture has them the other way round.

    Raises:
        InputError: see :func:`check_settings`.
    """
    check_settings(seed, seconds, size)
    streams = np.random.SeedSequence([seed, index]).spawn(3)
    choreography, look, coding = (np.random.default_rng(stream) for stream in streams)
    performance = perform(choreography, seconds, preset)
    code = _random_code(coding, preset)
    times = frame_times(coding, seconds, code.fps, code.vfr)
    sound = compose(coding, seconds, code.sound) if code.sound else None
    width, height = size[::-1] if code.portrait else size
    picture = Picture(look, preset, performance, (width, height), seconds)
    name = video_id(index)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.mp4"
        pictures = (picture.draw(float(time), code.exposure) for time in times)
        duration = write_mp4(path, pictures, times, fps=code.fps, vfr=code.vfr, crf=code.crf, sound=sound)
        files.put_file(path, video_uri(out, name))
    record = VideoRecord(
        video_id=name,
        subset=subset_of(index),
        duration=round(duration, 6),
        fps=round(len(times) / duration, 6) if code.vfr else float(frame_rate(code.fps)),
        frames=len(times),
        width=width,
        height=height,
        vfr=code.vfr,
        crf=code.crf,
        sound=code.sound,
        dancers=len(performance.dancers),
        style=performance.dancers[0].body.style,
        look=picture.facts,
        segments=performance.segments,
    )
    _write_joints(joints_uri(out, name), record, performance, picture, times)
    return record


def check_settings(seed: int, seconds: float, size: tuple[int, int]) -> None:
    """Raises InputError when no corpus can be made of these."""
    if seed < 0:
        raise InputError("seed", expected="0 or more", found=str(seed))
    if not 4 <= seconds <= _LONGEST:  # not a number is neither
        expected = f"at least 4 s, room for a step, at most {_LONGEST:g} s"
        raise InputError("seconds", expected=expected, found=f"{seconds:g}")
    found = f"{size[0]} x {size[1]}"
    if any(side % 2 or not 64 <= side <= 4096 for side in size):
        raise InputError("size", expected="even sides from 64 to 4096 pixels", found=found)
    if max(size) > 4 * min(size):  # a broadcaster's mark would not fit
        raise InputError("size", expected="a side at most four times as long as the other", found=found)


def _write_joints(
    uri: str, record: VideoRecord, performance: Performance, picture: Picture, times: NDArray[np.float64]
) -> None:
    """Write the table of :data:`schemas.arrow.JOINTS`: a row for each picture and dancer, in this order."""
    world = np.stack([dancer.joints(times) for dancer in performance.dancers], axis=1)  # (T, dancers, joints, 3)
    pixels = np.stack([picture.project(points, float(time)) for points, time in zip(world, times, strict=True)])
    count, dancers = world.shape[:2]
    columns = {
        "video_id": pa.array([record.video_id] * (count * dancers)),
        "frame": np.repeat(np.arange(count, dtype=np.int32), dancers),
        "time_s": np.repeat(times, dancers),
        "dancer": np.tile(np.arange(dancers, dtype=np.int32), count),
        "joints_2d": _lists(pixels, 2 * len(JOINTS)),
        "joints_3d": _lists(world, 3 * len(JOINTS)),
    }
    table = pa.table(columns, schema=arrow.JOINTS.with_metadata({_RECORD: record.to_json()}))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    files.write_bytes(uri, sink.getvalue())


def _lists(values: NDArray[np.float64], length: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), length)


def read_record(out: str, name: str) -> VideoRecord:
    """The record of a video that was drawn.

    Raises:
        InputError: its joints file is missing or none of ours.
    """
    uri = joints_uri(out, name)
    try:
        with files.open_file(uri) as file:
            record = VideoRecord.from_json(pq.read_schema(file).metadata[_RECORD])
    except FileNotFoundError:
        raise InputError(uri, expected="a joints file", found="nothing there") from None
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise InputError(uri, expected="a joints file (delete it to draw the video again)", found=found) from None
    if record.video_id != name:
        expected = f"the joints of video {name} (delete it to draw the video again)"
        raise InputError(uri, expected=expected, found=f"those of {record.video_id}")
    return record


def drawn_videos(out: str) -> set[str]:
    """The ids of the videos in ``out`` that are done: both their files are there, and neither is empty."""
    stems: dict[str, set[str]] = {}
    for folder, suffix in (("videos", ".mp4"), ("joints", ".parquet")):
        fs, path = files.filesystem(files.join(out, folder))
        fs.invalidate_cache()
        found = fs.find(path, maxdepth=1, detail=True)  # nothing where there is no folder
        names = {Path(name) for name, info in found.items() if info["size"]}
        stems[folder] = {name.stem for name in names if name.suffix == suffix and not name.stem.startswith(".")}
    return stems["videos"] & stems["joints"]


def to_annotations(records: Iterable[VideoRecord]) -> Annotations:
    """The annotations of some videos, by video id and time; "Backwards" is a tag."""
    ordered = sorted(records, key=lambda record: record.video_id)
    tags = set(LabelSet.load("annchor-fine").tags)
    columns: dict[bool, dict[str, list]] = {tag: defaultdict(list) for tag in (False, True)}
    for record in ordered:
        for segment in record.segments:
            table = columns[segment.label in tags]
            for key, value in (("video_id", record.video_id), *asdict(segment).items()):
                table[key].append(value)
    videos = {
        record.video_id: {
            "duration": record.duration,
            "fps": record.fps,
            "subset": record.subset,
            "solo": record.dancers == 1,
        }
        for record in ordered
    }
    return Annotations(segment_table(**columns[False]), video_table(videos), segment_table(**columns[True]))


def write_annotations(out: str, records: Iterable[VideoRecord], card: str) -> Annotations:
    """Write ``<out>/via/*.csv``, ``<out>/card.md`` and, last, ``<out>/annotations.json``: the corpus is then whole.

    Args:
        card: text of :func:`balletal.synthetic.card.dataset_card`.
    """
    annotations = to_annotations(records)
    write_via_csv(files.join(out, "via"), annotations)
    files.write_bytes(files.join(out, "card.md"), card.encode())
    write_activitynet(files.join(out, "annotations.json"), annotations, LabelSet.load("annchor-fine"))
    return annotations
