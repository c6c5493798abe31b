"""Parts of a report that not every run has the measures for: errors by kind, label, length and score; folds, seeds."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from balletal.report import figures
from balletal.report.cells import NONE, best_of, cell, percent, seconds
from balletal.report.runs import Run

_MEASURES = ("diagnosis", "confusion", "durations", "calibration")
_TIOU = 0.5


def errors_section(runs: Sequence[Run]) -> str:
    """What goes wrong, of the runs that were measured so; empty when there are none."""
    runs = [run for run in runs if all(run.metrics.get(name) for name in _MEASURES)]
    if not runs:
        return ""
    best = runs[0]
    believed = best.metrics["confusion"]["min_score"]
    return f"""<section id="errors" aria-labelledby="errors-title">
  <h2 id="errors-title">Errors</h2>
  <div class="scroll"><figure class="wide">{figures.error_bars(runs)}<figcaption>What detections are at tIoU {_TIOU:g}:
  of each class the best ones, as many as it has annotated steps, and ten times as many.</figcaption></figure></div>
  <div class="scroll more"><table>{_gain_table(runs)}</table></div>
  <p class="note">Average mAP in points that a run would gain if all errors of a kind were never made, one kind at a
  time; missed: if the steps that no detection finds were not asked for. The gains do not add up.</p>
  <div class="scroll more"><table>{_duration_table(runs)}</table></div>
  <p class="note">By the length of the annotated step, in per cent: recall at tIoU {_TIOU:g}, mAP over all thresholds.
  A false positive counts in the bin of its own length.</p>
  <div class="scroll"><figure class="wide">{figures.confusion_map(best)}<figcaption>{escape(best.name)}: the class of
  the best scored detection that overlaps each annotated step (tIoU {_TIOU:g}), in per cent of the steps of a row.
  Background: what is found where no step is, from the score {believed:.2f} on.</figcaption></figure>
  </div>
  <div class="figures"><figure>{figures.reliability_curves(runs)}<figcaption>Below the dashed line scores promise too
  much, above it too little.</figcaption></figure>
  <div><div class="scroll"><table>{_score_table(runs)}</table></div>
  <p class="note">Calibration error (ECE): the mean distance of scores from the share of right detections, in per cent.
  The scores of a run on one split have a temperature that was found on these same videos; those of folds have none.
  Sides: of the steps whose name is found, left for right or right for left.</p></div></div>
</section>"""


def folds_table(runs: Sequence[Run]) -> str:
    """Average mAP of all folds measured at once and of each alone; empty when no run was cross-validated."""
    runs = [run for run in runs if run.metrics.get("folds")]
    if not runs:
        return ""
    first = runs[0].metrics["folds"]
    rows = []
    for run in runs:
        alone = [fold["detection"].get("average_map") for fold in run.metrics["folds"]]
        alone += [None] * (len(first) - len(alone))
        cells = cell(run.metrics["detection"].get("average_map"), percent) + _spread(alone, percent)
        cells += "".join(cell(value, percent) for value in alone)
        rows.append(f'<tr><th scope="row">{escape(run.name)}</th>{cells}</tr>')
    heads = ("Average mAP, %", "pooled", "mean of folds", *(f"fold {i}" for i in range(len(first))))
    videos = _listed(fold["videos"] for fold in first)
    classes = _listed(len(fold["detection"]["ap_by_class"]) for fold in first)
    table = f"<thead><tr>{_heads(heads)}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"""<div class="scroll more"><table>{table}</table></div>
  <p class="note">The folds hold out {videos} videos, with steps of {classes} classes; every video is answered for by
  the model that did not learn from it. Pooled: all these detections ranked as one list, over all videos; each video
  counts once, and so all other numbers of this page are measured. It asks more than a fold alone does: the scores of
  models that were trained apart must agree, and a detection counts as wrong also where the videos of its fold have no
  step of its class, which a fold alone leaves out. Mean ± standard deviation over the folds: how far one split may be
  from another.</p>"""


def tags_section(runs: Sequence[Run]) -> str:
    """How right the tags of found steps are, of the runs that tell tags; empty when there are none."""
    rows = [
        f'<tr><th scope="row">{escape(run.name)}</th><td class="word">{escape(name)}</td><td>{tag["annotated"]:,} of '
        f"{run.metrics['tags']['matched']:,}</td><td>{tag['told']:,}</td>"
        f"{''.join(cell(tag[key], percent) for key in ('precision', 'recall', 'f1'))}</tr>"
        for run in runs
        for name, tag in run.metrics.get("tags", {}).get("tags", {}).items()
    ]
    if not rows:
        return ""
    heads = ("Run", "Tag", "Annotated", "Told", "Precision, %", "Recall, %", "F1, %")
    return (
        f'<div class="scroll more"><table><thead><tr>{_heads(heads)}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'</div><p class="note">Tags of the detections that find a step (tIoU {_TIOU:g}).</p>'
    )


def seeds_table(runs: Sequence[Run]) -> str:
    """Mean and standard deviation of the runs that differ in their seed alone; empty when none do."""
    settings: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        settings[run.name.removesuffix(f"-seed{run.metrics.get('seed')}")].append(run)
    if max(map(len, settings.values()), default=0) < 2:
        return ""
    rows = []
    for name, members in settings.items():
        detections = [run.metrics["detection"] for run in members]
        cells = [
            _spread([d.get("average_map") for d in detections], percent),
            _spread([figures.at_tiou(d, d["map"], _TIOU) for d in detections], percent),
            _spread([_get(run, "frames", "foreground_accuracy") for run in members], percent),
            _spread([_get(run, "boundaries", "start_median_s") for run in members], seconds),
            _spread([_get(run, "boundaries", "end_median_s") for run in members], seconds),
        ]
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td>{len(members)}</td>{"".join(cells)}</tr>')
    heads = ("Setting", "Seeds", "average mAP, %", "mAP @0.5, %", "in steps, %", "start error, s", "end error, s")
    table = f"<thead><tr>{_heads(heads)}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return (
        f'<div class="scroll more"><table>{table}</table></div>'
        '<p class="note">Mean ± standard deviation over seeds.</p>'
    )


def _gain_table(runs: Sequence[Run]) -> str:
    kinds = {kind: name for kind, (name, _) in figures.OUTCOMES.items() if kind != "true_positive"}
    kinds["missed"] = "missed"
    rows = []
    for run in runs:
        gain = run.metrics["diagnosis"]["gain"]
        dearest = best_of([gain[kind] for kind in kinds], max)
        cells = "".join(cell(gain[kind], percent, gain[kind] is not None and gain[kind] == dearest) for kind in kinds)
        known = cell(run.metrics["diagnosis"]["average_map"], percent)
        rows.append(f'<tr><th scope="row">{escape(run.name)}</th>{known}{cells}</tr>')
    heads = ("Gain without errors of a kind", "average mAP, %", *kinds.values())
    return f"<thead><tr>{_heads(heads)}</tr></thead><tbody>{''.join(rows)}</tbody>"


def _duration_table(runs: Sequence[Run]) -> str:
    bins = runs[0].metrics["durations"]["bins"]
    heads = "".join(f'<th scope="colgroup" colspan="2">{_seconds_range(b)} ({b["segments"]:,})</th>' for b in bins)
    rows = []
    for run in runs:
        durations = run.metrics["durations"]
        cells = []
        for b in durations["bins"]:
            recall = None if b["recall"] is None else figures.at_tiou(durations, b["recall"], _TIOU)
            cells += [cell(recall, percent), cell(b["average_map"], percent)]
        rows.append(f'<tr><th scope="row">{escape(run.name)}</th>{"".join(cells)}</tr>')
    kinds = '<th scope="col">recall</th><th scope="col">mAP</th>' * len(bins)
    return (
        f'<thead><tr><th scope="col" rowspan="2">Length of the step</th>{heads}</tr><tr>{kinds}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody>"
    )


def _score_table(runs: Sequence[Run]) -> str:
    sided = any(run.metrics["confusion"]["sides"] for run in runs)
    rows = []
    for run in runs:
        cells = cell(run.metrics["calibration"]["ece"], percent)
        if sided:
            sides = run.metrics["confusion"]["sides"] or {}
            cells += cell(sides.get("rate"), percent) + cell(sides.get("found"), str)
        rows.append(f'<tr><th scope="row">{escape(run.name)}</th>{cells}</tr>')
    heads = ("Scores and sides", "ECE, %", *(("wrong side, %", "of steps") if sided else ()))
    return f"<thead><tr>{_heads(heads)}</tr></thead><tbody>{''.join(rows)}</tbody>"


def _seconds_range(b: dict[str, Any]) -> str:
    if b["from"] is None:
        return "all" if b["to"] is None else f"under {b['to']:g} s"
    return f"{b['from']:g} s and more" if b["to"] is None else f"{b['from']:g} to {b['to']:g} s"


def _listed(counts: Iterable[int]) -> str:
    *most, last = (f"{n:,}" for n in counts)
    return f"{', '.join(most)} and {last}" if most else last


def _heads(names: Sequence[str]) -> str:
    return "".join(f'<th scope="col">{name}</th>' for name in names)


def _get(run: Run, part: str, name: str) -> float | None:
    value: float | None = (run.metrics.get(part) or {}).get(name)
    return value


def _spread(values: Sequence[float | None], write: Any) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    spread = f" ± {write(statistics.stdev(known))}" if len(known) > 1 else ""
    return f"<td>{write(statistics.mean(known))}{spread}</td>"
