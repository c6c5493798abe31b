"""The figure of a search: how good the best trial became, and how each value went with average mAP."""

from collections.abc import Collection, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from balletal.report.figures import _STYLE, COLOURS, _to_svg

_COLUMNS = 3


def study_figure(
    trials: pd.DataFrame, paths: Sequence[str], logarithmic: Collection[str], progress: pd.DataFrame
) -> str:
    """The best so far, then one panel for each value that was searched, the most telling first.

    Args:
        trials: one row a trial: ``status``, ``average_map`` and a column for each of ``paths``.
        logarithmic: those of ``paths`` whose axis is.
        progress: ``seconds``, ``best``.

    Returns:
        SVG. Trials that ran to their end are filled, others (stopped early, diverged) are hollow.
    """
    strength = {path: association(trials[path], trials["average_map"]) for path in paths}
    ordered = sorted(paths, key=lambda path: -strength[path])
    rows = -(-(len(ordered) + 1) // _COLUMNS)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.6 * _COLUMNS, 2.7 * rows), layout="constrained")
        axes = figure.add_subplot(rows, _COLUMNS, 1)
        axes.step(progress["seconds"], progress["best"], where="post", color=COLOURS[0])
        axes.set(title="best so far", xlabel="seconds of training, all trials", ylabel="average mAP")
        for i, path in enumerate(ordered, 2):
            panel = figure.add_subplot(rows, _COLUMNS, i)
            _scatter(panel, trials[path], trials, path in logarithmic)
            panel.set(title=f"{path}  ({strength[path]:.2f})", ylabel="average mAP" if i % _COLUMNS == 1 else "")
        return _to_svg(figure, f"Average mAP of {len(trials)} trials over time and over {', '.join(ordered)}")


def association(values: pd.Series, average_map: pd.Series) -> float:
    """How much a value goes with average mAP, in [0, 1], without a model of how: 0 where nothing varies.

    Numbers: the absolute rank correlation, which sees what rises or falls but not an optimum in the middle. Others: the
    square root of the share of the variance that lies between the choices.
    """
    if len(values) < 2 or average_map.nunique() < 2 or values.astype(str).nunique() < 2:
        return 0.0
    if _numeric(values):
        return float(abs(values.rank().corr(average_map.rank())))
    between = average_map.groupby(values.astype(str)).transform("mean").var(ddof=0)
    return float(np.sqrt(between / average_map.var(ddof=0)))


def _scatter(axes: Axes, values: pd.Series, trials: pd.DataFrame, logarithmic: bool) -> None:
    if not _numeric(values):
        names = sorted(values.astype(str).unique())
        values = values.astype(str).map(names.index)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    whole = trials["status"] == "finished"
    axes.scatter(values[~whole], trials["average_map"][~whole], 22, facecolors="none", edgecolors=COLOURS[5])
    axes.scatter(values[whole], trials["average_map"][whole], 22, color=COLOURS[1])
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
