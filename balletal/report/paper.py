"""Why the paper's recipe finds no boundary, told by the losses and detections of its own runs."""

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from balletal.report.cells import cell, percent, seconds
from balletal.report.figures import _INK, _STYLE, COLOURS, _legend, _to_svg
from balletal.report.runs import Results, Run

_END = 0.99  # of a video: what starts later lies at its end


def paper_section(results: Results) -> str:
    """The published failure beside the ``localize`` runs of the same models; empty where no run shows it.

    A run shows it whose boundary loss ends above 1: answers and targets in [0, 1] could not be so far apart.
    """
    of_paper = [run for run in results.runs if run.metrics.get("recipe") == "paper"]
    failed = [run for run in of_paper if (_boundary_loss(run)[-1:] > 1).any()]
    if not failed or results.ground_truth.empty:
        return ""
    others = [run for run in results.runs if any(_differ_in_recipe(run, one) for one in failed)]
    return f"""<section id="paper" aria-labelledby="paper-title">
  <h2 id="paper-title">Why the paper’s recipe fails</h2>
  <p class="told">{_explanation(results, failed, others)}</p>
  <div class="scroll"><table>{_table(results, failed, others)}</table></div>
  <div class="scroll"><figure class="wide">{_figure(results, failed, others)}<figcaption>Left: the boundary loss on the
  validation videos, and the least that answers between 0 and 1 can reach there. Right: where in their video detections
  start; a line says how many of them start up to there.</figcaption></figure></div>
</section>"""


def unreachable(segments: pd.DataFrame) -> float:
    """The least mean squared error, seconds squared, of boundaries in seconds that are answered within [0, 1].

    Long segments weigh more, by the features that lie in them.
    """
    boundaries = segments[["start", "end"]].to_numpy()
    missed = ((boundaries - boundaries.clip(0, 1)) ** 2).mean(axis=1)
    return float(np.average(missed, weights=boundaries[:, 1] - boundaries[:, 0]))


def _explanation(results: Results, failed: Sequence[Run], others: Sequence[Run]) -> str:
    truth, durations = results.ground_truth, results.durations
    losses = [_boundary_loss(run) for run in failed]
    first, last = (_range([loss[i] for loss in losses], _plain) for i in (0, -1))
    at_end = _range([_at_end(run.detections, durations) for run in failed], percent)
    steps_at_end = percent(_at_end(truth, durations))
    length = _range([_length(run.detections) for run in failed], seconds)
    text = f"""The recipe says where a step starts and ends through a sigmoid, which gives numbers from 0 to 1, but
  learns them against seconds, which here go up to {truth["end"].max():.1f}. The nearest that it can come is 1 for both,
  which leaves a squared error of about {_plain(unreachable(truth))}. There its boundary loss stands, at {first} after
  the first epoch and at {last} after the last. Read as parts of a video, [1, 1] is a segment without length at the very
  end: there, in the last hundredth, lie {at_end} % of the detections (annotated steps: {steps_at_end} %),
  and their median length is {length} s (annotated steps: {seconds(_length(truth))} s). Outside of steps the recipe
  teaches nothing, and answers may lie anywhere. So the average mAP is
  {_range(list(map(_average_map, failed)), percent)} %, whatever the classes are."""
    right = [value for run in failed if (value := _accuracy(run)) is not None]
    if right:
        text += f""" Frame accuracy does not see it: it takes the class of each feature and needs no boundary, and
  {_range(right, percent)} % of the frames in steps are right."""
    if others:
        text += f""" <code>localize</code> says distances to the boundaries, which any point can reach: the same models
  have an average mAP of {_range(list(map(_average_map, others)), percent)} %."""
    return re.sub(r"\s+%", "\N{NO-BREAK SPACE}%", text)


def _table(results: Results, failed: Sequence[Run], others: Sequence[Run]) -> str:
    def row(name: str, values: Sequence[float | None], table: pd.DataFrame) -> str:
        writers: list[Callable[[float], str]] = [percent, percent, _plain, _plain, percent, seconds]
        ends = (_at_end(table, results.durations), _length(table))
        cells = "".join(cell(value, write) for value, write in zip((*values, *ends), writers, strict=True))
        return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'

    rows = []
    for run in failed:
        loss = _boundary_loss(run)
        rows.append(row(run.name, [_average_map(run), _accuracy(run), loss[0], loss[-1]], run.detections))
        rows += [
            row(other.name, [_average_map(other), _accuracy(other), None, None], other.detections)
            for other in others
            if _differ_in_recipe(other, run)
        ]
    rows.append(row("annotated steps", [None] * 4, results.ground_truth))
    return f"""<thead><tr><th scope="col" rowspan="2">Run</th><th scope="col" rowspan="2">average mAP, %</th>
  <th scope="col" rowspan="2">frames right in steps, %</th><th scope="colgroup" colspan="2">Boundary loss, val</th>
  <th scope="colgroup" colspan="2">Detections</th></tr><tr><th scope="col">first epoch</th><th scope="col">last</th>
  <th scope="col">in the last hundredth, %</th><th scope="col">median length, s</th></tr></thead>
  <tbody>{"".join(rows)}</tbody>"""


def _figure(results: Results, failed: Sequence[Run], others: Sequence[Run]) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        loss, place = figure.subplots(1, 2)
        least = unreachable(results.ground_truth)
        loss.axhline(least, linestyle="--", color=_INK, alpha=0.5, linewidth=1)
        loss.text(0, least * 0.97, f"out of reach: {_plain(least)}", transform=loss.get_yaxis_transform(), va="top")
        for i, run in enumerate((*failed, *others)):
            if run in failed:
                loss.plot(run.losses["epoch"], run.losses["val_boundary"], color=COLOURS[i % 6])
            line = {"color": COLOURS[i % 6], "linestyle": "-" if run in failed else ":"}
            _cumulative(place, run.name, run.detections, results, **line)
        faint = {"color": _INK, "linestyle": "--", "linewidth": 1, "alpha": 0.5}
        _cumulative(place, "annotated steps", results.ground_truth, results, **faint)
        loss.set(xlabel="epoch", ylabel="boundary loss")
        loss.set_ylim(bottom=0)
        place.set(xlabel="start, % of the video", ylabel="share of detections", xlim=(0, 100.5))
        _legend(place, 3)
        return _to_svg(figure, "Boundary loss and place of detections of " + ", ".join(run.name for run in failed))


def _cumulative(axes: Axes, name: str, segments: pd.DataFrame, results: Results, **line: Any) -> None:
    starts = _starts(segments, results.durations)
    if starts.size:
        axes.ecdf(100 * starts, label=name, **line)


def _differ_in_recipe(run: Run, failed: Run) -> bool:
    same = all(run.metrics.get(key) == failed.metrics.get(key) for key in ("model", "features", "seed"))
    return same and run.metrics.get("recipe") == "localize"


def _boundary_loss(run: Run) -> NDArray[np.float64]:
    return run.losses["val_boundary"].to_numpy(dtype=float) if "val_boundary" in run.losses else np.zeros(0)


def _average_map(run: Run) -> float:
    return float(run.metrics["detection"].get("average_map") or 0.0)


def _accuracy(run: Run) -> float | None:
    accuracy: float | None = (run.metrics.get("frames") or {}).get("foreground_accuracy")
    return accuracy


def _starts(segments: pd.DataFrame, durations: dict[str, float]) -> NDArray[np.float64]:
    """Starts as parts of their videos, of those whose length is known."""
    starts = (segments["start"] / segments["video_id"].map(durations)).to_numpy(dtype=float)
    return starts[np.isfinite(starts)]


def _at_end(segments: pd.DataFrame, durations: dict[str, float]) -> float:
    starts = _starts(segments, durations)
    return float((starts >= _END).mean()) if starts.size else 0.0


def _length(segments: pd.DataFrame) -> float:
    return float((segments["end"] - segments["start"]).median()) if len(segments) else 0.0


def _plain(loss: float) -> str:
    return f"{loss:,.1f}"


def _range(values: Sequence[float], write: Callable[[float], str]) -> str:
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"
