"""Figures of a report, as SVG text to be put into a page.

Text and axes take the page's own colour (``currentColor``), so that one figure serves light and dark. Nothing carries
a style attribute, which a strict content security policy would drop.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from balletal.report.runs import Run

T = TypeVar("T")

# Mid tones that stand out on white and on black alike; each run also has a marker or a line style of its own.
COLOURS = ("#b5495b", "#3d84b8", "#4f9a67", "#c58a2b", "#8a6fc0", "#5f7482")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one more than colours: no two of 42 runs have both in common

_INK = "#010203"  # stands for currentColor while matplotlib draws
_SVG = "http://www.w3.org/2000/svg"
_STYLE = {
    "svg.fonttype": "none",  # real text: selectable, in the page's font
    "svg.hashsalt": "balletal",  # the same figure gives the same bytes
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.8,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), _INK),
}


def map_curves(runs: Sequence[Run]) -> str:
    """Mean average precision over the tIoU thresholds, one line a run."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 3.3), layout="constrained")
        axes = figure.add_subplot()
        for i, run in enumerate(runs):
            detection = run.metrics["detection"]
            axes.plot(detection["tiou"], np.multiply(detection["map"], 100), label=run.name, **_line(i))
        axes.set(xlabel="tIoU threshold", ylabel="mAP, %", xticks=runs[0].metrics["detection"]["tiou"])
        axes.set_ylim(bottom=0)
        _legend(axes, 2)
        return _to_svg(figure, "mAP over tIoU thresholds of " + ", ".join(run.name for run in runs))


def loss_curves(runs: Sequence[Run]) -> str:
    """Training and validation loss over epochs, one panel a run: recipes do not share a loss, so no axis either."""
    runs = [run for run in runs if len(run.losses)]
    if not runs:
        return ""
    with mpl.rc_context(_STYLE):
        columns = min(len(runs), 2) if max(len(run.name) for run in runs) < 26 else 1  # names are titles
        lines = -(-len(runs) // columns)
        figure = Figure(figsize=(5.4, 0.4 + (2.1 if columns > 1 else 1.6) * lines), layout="constrained")
        for i, run in enumerate(runs):
            axes = figure.add_subplot(lines, columns, i + 1)
            for column, style, name in (("train_total", "-", "training"), ("val_total", "--", "validation")):
                if column in run.losses and run.losses[column].notna().any():
                    axes.plot(run.losses["epoch"], run.losses[column], style, color=COLOURS[i % 6], label=name)
            if _ratio(run.losses.filter(["train_total", "val_total"]).to_numpy(dtype=float)) > 50:
                axes.set_yscale("log")
            axes.set_title(run.name)
            if i >= len(runs) - columns:
                axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            if i == 0:
                axes.legend()
        return _to_svg(figure, "Loss over epochs of " + ", ".join(run.name for run in runs))


def class_bars(runs: Sequence[Run], labels: Sequence[str], tiou: float = 0.5) -> str:
    """Average precision of each class at one tIoU threshold; the bars of a class stand in the order of the runs."""
    with mpl.rc_context(_STYLE):
        rows = -(-len(labels) // 2)
        figure = Figure(figsize=(11, 1.1 + (0.12 * max(len(runs), 2) + 0.14) * rows), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True)
        for axes, part in ((left, labels[:rows]), (right, labels[rows:])):
            positions = np.arange(len(part), dtype=float)
            bar = 0.8 / len(runs)
            for i, run in enumerate(runs):
                values = [100 * (ap_at(run.metrics["detection"], label, tiou) or 0.0) for label in part]
                at = positions - 0.4 + bar * (i + 0.5)
                axes.barh(at, values, bar * 0.86, color=COLOURS[i % 6], label=run.name)
            axes.set_yticks(positions, part)
            axes.set_ylim(rows - 0.5, -0.5)
            axes.set_xlabel(f"average precision at tIoU {tiou:g}, %")
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        _legend(left, 4)
        return _to_svg(figure, f"Average precision of each class at tIoU {tiou:g}")


# Outcome of a detection (metrics.diagnosis) -> its name and colour.
OUTCOMES = {
    "true_positive": ("right", COLOURS[2]),
    "localization": ("wrong boundary", COLOURS[3]),
    "wrong_label": ("wrong label", COLOURS[0]),
    "confusion": ("wrong label and boundary", COLOURS[4]),
    "double": ("double", COLOURS[1]),
    "background": ("background", COLOURS[5]),
}


def error_bars(runs: Sequence[Run], tiou: float = 0.5) -> str:
    """What the detections of each run are, as shares: of as many as there are segments, and of ten times as many."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 1.3 + 0.36 * len(runs)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, tiers, title in zip(panels, (1, 10), ("as many as steps", "ten times as many"), strict=True):
            for row, run in enumerate(runs):
                counts = outcome_counts(run, tiou, tiers)
                left, total = 0.0, max(sum(counts.values()), 1)
                for outcome, (name, colour) in OUTCOMES.items():
                    share = 100 * counts[outcome] / total
                    axes.barh(row, share, 0.72, left, color=colour, label=name if row == 0 else None)
                    if share >= 6:
                        text = f"{share:.0f}"
                        axes.text(left + share / 2, row, text, ha="center", va="center", color="#ffffff", fontsize=9)
                    left += share
            axes.set_yticks(range(len(runs)), [run.name for run in runs])
            axes.set(xlim=(0, 100), ylim=(len(runs) - 0.5, -0.5), title=f"The best detections of each class, {title}")
            axes.set_xlabel("share of them, %")
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        _legend(panels[0], len(OUTCOMES))
        return _to_svg(figure, f"What detections are at tIoU {tiou:g}, " + ", ".join(run.name for run in runs))


def outcome_counts(run: Run, tiou: float, tiers: int) -> dict[str, int]:
    """How many there are of each outcome among a run's best detections; 0 at a threshold that was not evaluated.

    Args:
        tiers: look at so many times as many detections of each class as it has segments, at most 10.
    """
    diagnosis = run.metrics["diagnosis"]
    levels = {outcome: at_tiou(diagnosis, diagnosis["counts"][outcome], tiou) for outcome in OUTCOMES}
    return {outcome: sum((counts or [])[:tiers]) for outcome, counts in levels.items()}


def confusion_map(run: Run) -> str:
    """The label found for each true label, in per cent of its segments; the background's row in per cent of its own."""
    confusion = run.metrics["confusion"]
    counts = np.array(confusion["counts"], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n = len(counts)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 1.6 + 0.3 * n), layout="constrained")
        axes = figure.add_subplot()
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            share = shares[row, column]
            colour = COLOURS[2] if row == column else COLOURS[0]
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=share, linewidth=0))
            ink = "#ffffff" if share > 0.6 else _INK
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=ink)
        axes.set_xticks(range(n), [*confusion["labels"], "missed"], rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), [*confusion["labels"], "background"])
        axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), xlabel="found", ylabel="annotated")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        return _to_svg(figure, f"Labels found for annotated labels by {run.name}")


def reliability_curves(runs: Sequence[Run]) -> str:
    """Share of right detections over their scores, one line a run; the diagonal is a score that says what it means."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], "--", color=_INK, alpha=0.4, linewidth=1)
        for i, run in enumerate(runs):
            bins = [b for b in run.metrics["calibration"]["bins"] if b["count"]]
            score, precision = ([100 * b[key] for b in bins] for key in ("score", "precision"))
            axes.plot(score, precision, label=run.name, **_line(i))
        axes.set(xlabel="score, %", ylabel="right detections, %", xlim=(0, 100), ylim=(0, 100))
        _legend(axes, 2)
        return _to_svg(figure, "Right detections over scores of " + ", ".join(run.name for run in runs))


def at_tiou(detection: dict[str, Any], values: Sequence[T], tiou: float) -> T | None:
    """The value that belongs to one tIoU threshold of a metrics dict; None when the threshold was not evaluated."""
    matching = [value for at, value in zip(detection["tiou"], values, strict=True) if abs(at - tiou) < 1e-6]
    return matching[0] if matching else None


def ap_at(detection: dict[str, Any], label: str, tiou: float) -> float | None:
    """Average precision of one class at one threshold; None when it is not in the metrics."""
    values = detection.get("ap_by_class", {}).get(label)
    return None if values is None else at_tiou(detection, values, tiou)


def _line(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % 6], "marker": MARKERS[i % 7]}


def _legend(axes: Axes, columns: int) -> None:
    """A legend above all axes, of at most so many columns."""
    handles, names = axes.get_legend_handles_labels()
    # Of letters; the page's font may be wider than the one measured here.
    room = 11 * axes.figure.bbox.width / axes.figure.dpi
    columns = max(1, min(columns, int(room / (max(map(len, names)) + 6))))
    axes.figure.legend(handles, names, loc="outside upper left", ncols=columns)


def _ratio(values: np.ndarray) -> float:
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.max() / values.min()) if values.size else 1.0


def _to_svg(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(buffer.getvalue())
    parents = {child: parent for parent in root.iter() for child in parent}
    for element in list(root.iter()):
        if element.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
            parents[element].remove(element)
    text = "".join(ET.tostring(root, encoding="unicode"))
    # Markers and clip paths are referred to by id: one prefix a figure keeps ids unique in the page.
    prefix = re.sub(r"\W+", "-", description.lower())[:40]
    for element in root.iter():
        _plain_attributes(element)
        for key, value in list(element.attrib.items()):
            if key == "id":
                if f"#{value}" in text:
                    element.set("id", f"{prefix}-{value}")
                else:
                    del element.attrib["id"]
            elif "#" in value and ("url(#" in value or key.endswith("href")):
                element.set(key, value.replace("#", f"#{prefix}-"))
            elif value == _INK:
                element.set(key, "currentColor")
    for key in ("width", "height"):
        root.attrib.pop(key, None)  # the viewBox stays: the page decides the width
    root.set("role", "img")
    root.set("aria-label", description)
    root.set("fill", "currentColor")
    root.set("stroke-linejoin", "round")
    return ET.tostring(root, encoding="unicode")


def _plain_attributes(element: ET.Element) -> None:
    """Turn ``style="a: b"`` into attributes; a font's size stays and its family is left to the page."""
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            element.set("font-size", size.group(1) if size else "10")
        elif name and name != "font-family":
            element.set(name, value.removesuffix("px") if name == "font-size" else value)
