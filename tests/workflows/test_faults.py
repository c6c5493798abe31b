"""Extractions that are disturbed, and what is in the store in the end (all of it: ``tests.benchmarks.faults``)."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data

import workflows.extract
from balletal.backbones.spec import FeatureSpec
from balletal.errors import StorageError
from balletal.features.store import FeatureStore
from balletal.features.units import FRAMES_PER_UNIT
from tests.workflows.fault_points import Fault, Moment
from tests.workflows.faults_common import Content, content, faulty, until
from workflows import extract_stages
from workflows.extract import extract

pytestmark = pytest.mark.ray

FRAMES = 40  # two clips a unit


@dataclass(frozen=True)
class Corpus:
    """Three videos of three units each, and what an undisturbed extraction makes of them."""

    videos: str
    weights: str
    spec: FeatureSpec
    usual: Content

    def extract(self, store: str, videos: str = "", **options: Any) -> dict[str, Any]:
        return extract(videos or self.videos, store, spec=self.spec, weights=self.weights, **options)

    def content(self, store: str) -> Content:
        return content(FeatureStore(store, self.spec))


@dataclass
class Disturbed:
    """An extraction in a thread of its own, until it stands at its fault and after."""

    fault: Fault
    work: Callable[[], dict[str, Any]]
    summaries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=lambda: self.summaries.append(self.work()), daemon=True)
        self.thread.start()

    def reached(self) -> tuple[int, int, str]:
        found: tuple[int, int, str] | None = until(self.fault.reached, seconds=250)
        assert found, "the extraction never came there"
        return found

    def summary(self) -> dict[str, Any]:
        self.thread.join(300)
        (summary,) = self.summaries
        return summary


@pytest.fixture(scope="module")
def corpus(
    tmp_path_factory: pytest.TempPathFactory,
    make_video: Callable[..., Path],
    weights: str,
    spec: FeatureSpec,
    ray_cluster: None,
) -> Iterator[Corpus]:
    folder = tmp_path_factory.mktemp("faults")
    for i in range(3):
        make_video(folder / "videos" / f"v{i}.mp4", 3.9, seed=i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FRAMES_PER_UNIT, "windowed", FRAMES)
        nothing = Content({}, [], [], 0)
        made = Corpus(str(folder / "videos"), weights, spec, nothing)
        made.extract(str(folder / "store"))
        usual = made.content(str(folder / "store"))
        assert (len(usual.units), usual.rows) == (9, 18)
        yield Corpus(made.videos, weights, spec, usual)


@pytest.mark.parametrize(
    ("moment", "parent"), [("backbone", False), ("decode", True), ("before rename", False), ("after rename", False)]
)
def test_a_killed_process_loses_nothing(tmp_path: Path, corpus: Corpus, moment: Moment, parent: bool) -> None:
    """Of the actor, of a decoding worker (the parent of the decoders' process), of a writer."""
    store, fault = str(tmp_path / "store"), Fault(moment, str(tmp_path), "v1")
    with faulty(fault):
        run = Disturbed(fault, lambda: corpus.extract(store))
        process, above, _ = run.reached()
        os.kill(above if parent else process, signal.SIGKILL)
        assert run.summary()["segments"] == {"total": 9, "done": 9, "skipped": 0, "failed": 0}
    assert corpus.content(store) == corpus.usual


def test_a_decoder_that_crashes_costs_one_video(tmp_path: Path, corpus: Corpus) -> None:
    store = str(tmp_path / "store")
    with faulty(Fault("decode", str(tmp_path), "v1", "crash")):
        summary = corpus.extract(store)
    assert summary["segments"] == {"total": 9, "done": 6, "skipped": 0, "failed": 3}
    found = corpus.content(store)
    assert found.without("v1").units == corpus.usual.without("v1").units
    assert [(row["video_id"], row["segment"], row["type"]) for row in found.errors] == [
        ("v1", segment, "decoder-crashed") for segment in range(3)
    ]
    again = corpus.extract(store)  # what failed is left alone, until somebody asks
    assert again["segments"] == {"total": 9, "done": 0, "skipped": 6, "failed": 3}
    again = corpus.extract(store, retry_failed=True)
    assert again["segments"] == {"total": 9, "done": 3, "skipped": 6, "failed": 0}
    assert corpus.content(store) == corpus.usual


def test_two_runs_at_once_do_each_others_work_no_harm(tmp_path: Path, corpus: Corpus) -> None:
    store, fault = str(tmp_path / "store"), Fault("before rename", str(tmp_path))
    with faulty(fault):
        run = Disturbed(fault, lambda: corpus.extract(store))
        run.reached()
    corpus.extract(store)
    assert corpus.content(store) == corpus.usual
    fault.go()  # the first one still has its own file to name
    run.summary()
    assert corpus.content(store) == corpus.usual


def test_a_source_that_is_replaced_meanwhile(tmp_path: Path, corpus: Corpus, make_video: Callable[..., Path]) -> None:
    videos, store, fault = tmp_path / "videos", str(tmp_path / "store"), Fault("decode", str(tmp_path), "b")
    for name in "ab":
        make_video(videos / f"{name}.mp4", 3.0, seed=ord(name))
    new = make_video(tmp_path / "new.mp4", 3.0, seed=9)
    with faulty(fault):
        run = Disturbed(fault, lambda: corpus.extract(store, str(videos)))
        run.reached()
        new.replace(videos / "b.mp4")
        fault.go()
        summary = run.summary()
    assert summary["videos_failed"] == 1
    errors = corpus.content(store).errors
    assert {(row["video_id"], row["stage"], row["type"]) for row in errors} == {("b", "decode", "changed")}
    corpus.extract(store, str(videos))
    corpus.extract(str(tmp_path / "alone"), str(videos))
    assert corpus.content(store) == corpus.content(str(tmp_path / "alone"))


@pytest.mark.parametrize("crop", ["center", "dancer"])
def test_every_stage_is_an_operator_of_its_own(
    tmp_path: Path, corpus: Corpus, crop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = corpus.spec.replace(crop=crop, tracker="motion-1" if crop == "dancer" else "")
    made: list[Any] = []

    def kept(*args: Any, **kwargs: Any) -> ray.data.Dataset:
        made.append(extract_stages.stages(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(workflows.extract, "stages", kept)
    summary = extract(corpus.videos, str(tmp_path / "store"), spec=spec, weights=corpus.weights)
    assert summary["segments"] == {"total": 9, "done": 9, "skipped": 0, "failed": 0}
    operators = [line for line in made[0].stats().splitlines() if line.startswith("Operator ")]
    stages = ["_decode", "_Backbone", "_write"] if crop == "center" else ["_track", "_decode", "_Backbone", "_write"]
    assert len(operators) >= len(stages)
    for stage in stages:
        (holds,) = [line for line in operators if f"({stage})" in line]
        assert not any(f"({other})" in holds for other in stages if other != stage)


def test_a_store_that_cannot_be_written_is_told_in_a_line(tmp_path: Path, corpus: Corpus) -> None:
    store = str(tmp_path / "store")
    with faulty(Fault("before rename", str(tmp_path), "v1", "full")), pytest.raises(StorageError) as caught:
        corpus.extract(store)
    assert str(caught.value).endswith(
        ".parquet: expected a place that can be written to, found No space left on device"
    )
    assert until(lambda: ray.available_resources().get("CPU") == 2), "an actor of the job is left"
    corpus.extract(store)
    assert corpus.content(store) == corpus.usual
