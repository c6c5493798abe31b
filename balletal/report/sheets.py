"""Contact sheets: what the steps of each class look like, as annotated, in rows of pictures from start to end."""

import io
from collections.abc import Collection, Mapping

import cv2
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from balletal.annotations import Annotations
from balletal.errors import VideoError
from balletal.labels import LabelSet
from balletal.video.clips import analysis_frames
from balletal.video.decode import read_frames
from balletal.video.probe import probe

COLUMNS = {"start": 0.0, "1/4": 0.25, "middle": 0.5, "3/4": 0.75, "end": 1.0}
"""Title of a column -> its place in the step, as a share of it."""

_WIDTH, _HEIGHT = 240, 135  # of a picture
_GAP, _TITLE, _TEXT = 4, 24, 250  # between pictures; above them; left of them
_LETTERS = 30  # that fit there
_PAPER, _EMPTY = 255, 228
_CLOCK = 1000.0  # pictures are looked up to the millisecond


def choose_examples(
    annotations: Annotations,
    video_ids: Collection[str],
    labels: LabelSet | None = None,
    *,
    rows_per_label: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Some steps and tags of each label, drawn from ``video_ids``: a segment table, in the order of ``labels``.

    Args:
        labels: gives the order; labels that it does not have follow by name.
    """
    table = pd.concat([annotations.segments, annotations.tags]) if len(annotations.tags) else annotations.segments
    table = table[table["video_id"].isin(list(video_ids))].sort_values(["video_id", "start", "end"], kind="stable")
    drawn = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    drawn = drawn.groupby("label", sort=False).head(rows_per_label)
    known = {name: i for i, name in enumerate((*labels.labels, *labels.tags))} if labels else {}
    order = sorted(drawn["label"].unique(), key=lambda name: (known.get(name, len(known)), name))
    return drawn.sort_values("label", key=lambda names: names.map(order.index), kind="stable").reset_index(drop=True)


def contact_sheet(examples: pd.DataFrame, sources: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """One row for each example: its label, its video and times, and the pictures at :data:`COLUMNS`.

    Args:
        examples: segment table.
        sources: video id -> path or URI of the video, for every video of ``examples``.

    Returns:
        a PNG image; what could not be shown, in words: its pictures are left empty.
    """
    rows = examples.to_dict("records")
    width = _TEXT + len(COLUMNS) * (_WIDTH + _GAP)
    height = _TITLE + max(1, len(rows)) * (_HEIGHT + _GAP)
    sheet = np.full((height, width, 3), _PAPER, np.uint8)
    texts = [(_TEXT + i * (_WIDTH + _GAP), 7, title, "normal") for i, title in enumerate(COLUMNS)]
    problems: list[str] = []
    for i, row in enumerate(rows):
        top = _TITLE + i * (_HEIGHT + _GAP)
        start, end = float(row["start"]), float(row["end"])
        said = [(str(row["label"]), "bold"), (str(row["video_id"]), "normal"), (f"{start:.3f} - {end:.3f} s", "normal")]
        texts += [(8, top + 42 + 20 * line, _short(text), weight) for line, (text, weight) in enumerate(said)]
        times = [start + share * (end - start) for share in COLUMNS.values()]
        for column, picture in enumerate(_pictures(sources[row["video_id"]], times, problems)):
            left = _TEXT + column * (_WIDTH + _GAP)
            sheet[top : top + _HEIGHT, left : left + _WIDTH] = picture
    return _png(sheet, texts), list(dict.fromkeys(problems))


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _pictures(uri: str, times: list[float], problems: list[str]) -> list[NDArray[np.uint8]]:
    """The pictures shown at ``times``, each (_HEIGHT, _WIDTH, 3) uint8; a time outside gives the nearest."""
    empty = np.full((_HEIGHT, _WIDTH, 3), _EMPTY, np.uint8)
    try:
        info = probe(uri)
        last = analysis_frames(info.duration, _CLOCK) - 1
        scale = min(_WIDTH / info.width, _HEIGHT / info.height)
        width, height = max(1, round(info.width * scale)), max(1, round(info.height * scale))
        shown = []
        for time in times:
            n = min(max(0, round(time * _CLOCK)), last)
            frames = read_frames(uri, _CLOCK, n, n + 1, crop="full", size=_WIDTH)
            cell = empty.copy()
            if len(frames.pixels):
                left, top = (_WIDTH - width) // 2, (_HEIGHT - height) // 2
                small = cv2.resize(frames.pixels[0], (width, height), interpolation=cv2.INTER_AREA)
                cell[top : top + height, left : left + width] = small
            else:
                problems.append(f"{uri}: nothing at {time:.3f} s")
            shown.append(cell)
    except VideoError as error:
        problems.append(str(error))
        return [empty] * len(times)
    return shown


def _png(sheet: NDArray[np.uint8], texts: list[tuple[int, int, str, str]]) -> bytes:
    """The sheet with texts (left, top, text, weight) on it."""
    height, width = sheet.shape[:2]
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figure.figimage(sheet)
    for left, top, text, weight in texts:
        figure.text(left / width, 1 - top / height, text, va="top", size=9, weight=weight, parse_math=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
