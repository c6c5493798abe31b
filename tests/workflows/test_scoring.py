"""What a scoring tells while it goes on."""

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from balletal.segments import segment_table
from schemas import arrow
from workflows import scoring
from workflows.scoring import Failure, Result, Scoring


class Parts:
    """Detections in which one video stands."""

    def videos(self) -> pd.DataFrame:
        return pd.DataFrame({"video_id": ["old"], "version": ["1"], "features": ["x"]})


def test_a_video_is_told_at_once_and_counted_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an extraction, long before a part is full: one of four is no whole."""
    monkeypatch.setattr(scoring, "nodes", list)
    monkeypatch.setattr(Scoring, "_grow", lambda self, actors: None)
    told: list[Any] = []
    parts: Any = Parts()
    run = Scoring("b", parts, parts, {}, on_progress=lambda *how: told.append(how), on_videos=told.append)
    run.beside({"old": "1", "a": "1", "b": "1", "c": "1"}, "a", [0], 1.0)

    about = {"version": "1", "features": "x", "detections": 1}
    videos = pa.Table.from_pylist([{"video_id": "a"} | about], arrow.SCORED)
    found = segment_table(["a"], [0.0], [1.0], "A", score=0.5).assign(bundle="b")[arrow.DETECTIONS.names]
    table = pa.Table.from_pandas(found, arrow.DETECTIONS, preserve_index=False)
    run._take(Result(videos, table, [Failure("b", "InputError", "no features")]))

    detections, progress = told
    assert list(detections) == ["a"]
    assert detections["a"]["label"].tolist() == ["A"]
    assert progress == ("localizing", 3, 4)
