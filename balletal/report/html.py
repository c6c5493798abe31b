"""A report as one HTML file that needs nothing else: no server, no network, no library."""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from balletal.report import figures
from balletal.report.cells import NONE, best_of, cell, count, duration, number, percent, seconds
from balletal.report.paper import paper_section
from balletal.report.runs import Results, Run
from balletal.report.sections import errors_section, folds_table, seeds_table, tags_section
from balletal.report.timelines import Shown, choose_shown, timeline_data

_HERE = Path(__file__).parent

# What the paper printed about its two models: frame accuracy in per cent, of annotated frames. Its boundary loss
# stood still at about 4805 and both models answered [1, 1] for every boundary.
_PAPER = {"lstm": 72.1, "cnn": 68.4}


def render(results: Results, videos: int | None = None) -> str:
    """The whole page. Classes stand in the order of the metrics, those that only a detection names after them.

    Args:
        videos: draw timelines of at most so many videos, those with the most annotated segments; None draws all.
    """
    tables = (results.ground_truth, *(run.detections for run in results.runs))
    named = [label for run in results.runs for label in run.metrics["detection"].get("ap_by_class", {})]
    ordered = list(dict.fromkeys(named + sorted(set().union(*(table["label"].unique() for table in tables)))))
    shown = {run.name: choose_shown(results.ground_truth, run.detections) for run in results.runs}
    data = timeline_data(results, shown, ordered, videos)

    style = (_HERE / "report.css").read_text(encoding="utf-8")
    # One module: the timeline's exports and the page's own code that uses them.
    script = "".join((_HERE / name).read_text(encoding="utf-8") for name in ("timeline.js", "report.js"))
    return Template((_HERE / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(results.title),
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        # "<" would let a label end the script element; the escape means the same in JSON.
        data=json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        lead=_lead(results),
        headline=_headline(results.runs),
        background=_background(results.runs),
        folds=folds_table(results.runs),
        seeds=seeds_table(results.runs),
        errors_link='<a href="#errors">Errors</a>' if (errors := errors_section(results.runs)) else "",
        errors=errors,
        paper_link='<a href="#paper">The paper’s recipe</a>' if (paper := paper_section(results)) else "",
        paper=paper,
        map_figure=figures.map_curves(results.runs),
        loss_figure=figures.loss_curves(results.runs),
        class_figure=figures.class_bars(results.runs, ordered),
        class_table=_class_table(results, ordered),
        tags=tags_section(results.runs),
        shown=_shown_table(shown),
        video_count=f"{len(data['videos'])}",
        video_total=f"{len({*results.ground_truth['video_id'], *results.durations})}",
    )


def _digest(text: str) -> str:
    """The content security policy's name for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _lead(results: Results) -> str:
    first = results.runs[0].metrics
    truth = results.ground_truth
    split = first.get("split") or {}
    parts = [
        f"{len({*truth['video_id'], *results.durations}):,} videos",
        f"{len(truth):,} annotated steps of {truth['label'].nunique()} classes",
        f"{first.get('subset', 'unknown')} subset",
    ]
    if split.get("by"):
        drawn = f"{split['folds']} folds" if split.get("folds") else "split"
        parts.append(f"{drawn} by {split['by']}" + (f", seed {split['seed']}" if split.get("seed") is not None else ""))
    if first.get("data"):
        parts.append(str(first["data"]))
    if results.unfinished:
        parts.append(f"without results: {', '.join(results.unfinished)}")
    return escape(" · ".join(parts))


def _headline(runs: Sequence[Run]) -> str:
    """Rows of the main table, then the paper's own numbers."""
    columns: list[list[float | None]] = []
    for run in runs:
        m = run.metrics
        detection, frames, boundaries, losses = (
            m.get(key) or {} for key in ("detection", "frames", "boundaries", "losses")
        )
        columns.append(
            [
                detection.get("average_map"),
                figures.at_tiou(detection, detection["map"], 0.5),
                frames.get("foreground_accuracy"),
                frames.get("accuracy"),
                boundaries.get("start_median_s"),
                boundaries.get("end_median_s"),
                (losses.get("train") or {}).get("total"),
                (losses.get("val") or {}).get("total"),
                (losses.get("val") or {}).get("boundary"),
                m.get("parameters"),
                m.get("train_seconds"),
            ]
        )
    # Losses of different recipes, sizes and times have no winner.
    winners: list[Any] = [max, max, max, max, min, min, None, None, None, None, None]
    formats = [percent] * 4 + [seconds] * 2 + [number] * 3 + [count, duration]
    best = [best_of(column, winner) for column, winner in zip(zip(*columns, strict=True), winners, strict=True)]
    rows = []
    for run, values in zip(runs, columns, strict=True):
        cells = "".join(
            cell(value, write, value is not None and value == top)
            for value, write, top in zip(values, formats, best, strict=True)
        )
        rows.append(
            f'<tr><th scope="row">{escape(run.name)}</th><td class="word">{escape(str(run.metrics.get("model", "–")))}'
            f'</td><td class="word">{escape(str(run.metrics.get("recipe", "–")))}</td>{cells}</tr>'
        )
    paper = "".join(
        f'<tr><th scope="row">{model}</th><td class="word">{model}</td><td class="word">as published</td>{NONE * 2}'
        f'<td>{accuracy:.1f}</td>{NONE}<td colspan="2" class="word">constant [1, 1]</td>'
        f"{NONE * 2}<td>≈ 4,805</td>{NONE * 2}</tr>"
        for model, accuracy in _PAPER.items()
    )
    return (
        f"<tbody>{''.join(rows)}</tbody>"
        f'<tbody class="paper"><tr><th scope="rowgroup" colspan="14">Printed in the paper, on its own split of '
        f"AnnChor: for orientation, not results of these runs</th></tr>{paper}</tbody>"
    )


def _background(runs: Sequence[Run]) -> str:
    """What a model that never answers would reach, where the runs say it."""
    share = (runs[0].metrics.get("frames") or {}).get("background")
    if share is None:
        return ""
    return f"{100 * share:.1f} % of the frames are background: so much of “all” comes from saying nothing."


def _class_table(results: Results, labels: Sequence[str]) -> str:
    """AP of each class: averaged over the thresholds and at tIoU 0.5."""
    counts = results.ground_truth["label"].value_counts()
    runs = "".join(f'<th scope="colgroup" colspan="2">{escape(run.name)}</th>' for run in results.runs)
    kinds = '<th scope="col">mean</th><th scope="col">@0.5</th>' * len(results.runs)
    rows = []
    for label in labels:
        cells = []
        for run in results.runs:
            detection = run.metrics["detection"]
            values = detection.get("ap_by_class", {}).get(label)
            cells.append(cell(sum(values) / len(values) if values else None, percent))
            cells.append(cell(figures.ap_at(detection, label, 0.5), percent))
        rows.append(
            f'<tr><th scope="row">{escape(label)}</th><td>{int(counts.get(label, 0)):,}</td>{"".join(cells)}</tr>'
        )
    return (
        f'<thead><tr><th scope="col" rowspan="2">Class</th><th scope="col" rowspan="2">Annotated</th>{runs}</tr>'
        f"<tr>{kinds}</tr></thead><tbody>{''.join(rows)}</tbody>"
    )


def _shown_table(shown: dict[str, Shown]) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{choice.threshold:.3f}</td><td>{len(choice.detections):,}</td>'
        f"<td>{100 * choice.precision:.1f}</td><td>{100 * choice.recall:.1f}</td><td>{100 * choice.f1:.1f}</td></tr>"
        for name, choice in shown.items()
    )
