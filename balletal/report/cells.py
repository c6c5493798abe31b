"""Cells of a report's tables: how numbers are written."""

from collections.abc import Sequence
from typing import Any

NONE = '<td class="none">–</td>'


def best_of(values: Sequence[float | None], winner: Any) -> float | None:
    """``winner`` (max or min) of the known values; None where there is no contest."""
    known = [value for value in values if value is not None]
    return winner(known) if winner and len(known) > 1 else None


def cell(value: float | None, write: Any, best: bool = False) -> str:
    """A cell of the table's body; None is a dash."""
    if value is None:
        return NONE
    return f'<td class="best">{write(value)}</td>' if best else f"<td>{write(value)}</td>"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def seconds(value: float) -> str:
    return f"{value:.2f}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


def count(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
