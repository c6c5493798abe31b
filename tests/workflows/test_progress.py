"""What an extraction says of itself."""

import pytest

from balletal.video.clips import VideoSegment
from workflows import progress
from workflows.progress import Progress, Through


def unit(video_id: str, *, rows: int = 10, failed: bool = False) -> dict:
    work = {"decode_s": 2.0, "backbone_s": 6.0, "write_s": 0.5}
    return {"video_id": video_id, "rows": rows, "frames": 100, "video_s": 4.0, "failed": failed} | work


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: one number, in seconds."""
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    return clock


def test_counts_rates_and_what_is_left(at: list[float], capsys: pytest.CaptureFixture[str], ray_cluster: None) -> None:
    cluster = (4.0, 1.0)
    done = Progress({"a": 2, "b": 1, "c": 1}, {"decode": 1, "backbone": 2}, lambda: cluster)
    at[0] += 6
    done.add(unit("a"))
    assert capsys.readouterr().err == ""  # nothing is said every moment
    at[0] += 6
    done.add(unit("a"))
    done.add(unit("b", rows=0, failed=True))
    assert capsys.readouterr().err.splitlines() == [
        "2 of 4 segments, 1 of 3 videos, 20 features, 17 frames/s, 0.67 video-hours an hour, 0 min left, 0 failed"
    ]
    at[0] += 4
    done.add(unit("c"))  # the last one is always told
    assert capsys.readouterr().err.startswith("4 of 4 segments, 3 of 3 videos, 30 features, 25 frames/s")

    totals = done.totals(price=9.0)
    assert (totals["seconds"], totals["frames"], totals["frames_per_s"]) == (16, 400, 25)
    assert totals["video_hours_per_hour"] == 1.0
    assert totals["stages"] == {
        "decode": {"busy_s": 8.0, "slots": 1, "utilisation": 0.5},
        "backbone": {"busy_s": 24.0, "slots": 2, "utilisation": 0.75},
        "write": {"busy_s": 2.0},
    }
    assert totals["per_video_hour"] == {"cpu_hours": 4.0, "gpu_hours": 1.0, "price": 9.0}


def test_a_run_without_any_video_has_no_cost_an_hour(at: list[float], ray_cluster: None) -> None:
    done = Progress({"a": 1}, {"decode": 1}, lambda: (2.0, 0.0))
    done.add(unit("a", rows=0, failed=True) | {"video_s": 0.0})
    assert done.totals()["per_video_hour"] == {"cpu_hours": None, "gpu_hours": None}


def test_a_cluster_that_grows_is_charged_as_it_was(at: list[float], ray_cluster: None) -> None:
    cluster = [(2.0, 0.0)]
    done = Progress({"a": 2}, {"decode": 1}, lambda: cluster[0])
    cluster[0] = (10.0, 4.0)
    at[0] += 4
    done.add(unit("a"))  # from here on it is known to have grown
    at[0] += 4
    done.add(unit("a"))
    totals = done.totals()
    assert totals["cluster"] == {"cpus": 10.0, "gpus": 4.0}
    assert totals["per_video_hour"] == {"cpu_hours": (2 + 10) * 4 / 8, "gpu_hours": 4 * 4 / 8}


def test_a_video_is_told_when_nothing_is_left_of_it() -> None:
    units = [VideoSegment(video, f"{video}.mp4", n, 2 * n, 2, 9.0) for video in "abcd" for n in range(2)]
    told: list[tuple[str, list[int], float]] = []
    # Of a all is there, of b half; of c and d nothing, and d will not do.
    finished = {("a", 0), ("a", 1), ("b", 1)}
    todo = [one for one in units if (one.video_id, one.segment) not in finished]
    through = Through(units, todo, finished, lambda *video: told.append(video))
    assert told == [("a", [0, 1], 9.0)]
    for video, segment in (("c", 1), ("b", 0), ("d", 0), ("d", 1)):
        through.add({"video_id": video, "segment": segment, "failed": video == "d"})
    assert told[1:] == [("b", [0, 1], 9.0)]
    through.add({"video_id": "c", "segment": 0, "failed": True})
    assert told[2:] == [("c", [1], 9.0)]
