"""Live sessions without a socket: pictures in, events out."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from balletal.features.live import LiveClips
from balletal.video.jpeg import decode_jpeg
from tests.workflows.conftest import TinyBundle
from workflows.serve import live_session
from workflows.serve.live_session import Event, LiveSession, Picture

WIDTH, HEIGHT, DIM = 64, 48, 1024


def jpeg(n: int) -> bytes:
    image = np.full((HEIGHT, WIDTH, 3), 20 + n * 37 % 200, np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def features_of(pixels: np.ndarray, clips: int) -> np.ndarray:
    """Noise that a clip's pixels alone decide; clips of 8 frames, one behind the other."""
    seeds = [int(pixels[8 * k : 8 * k + 8].sum()) for k in range(clips)]
    return np.stack([np.random.default_rng(seed).normal(size=DIM) for seed in seeds]).astype(np.float32)


async def features(pixels: np.ndarray, clips: int) -> np.ndarray:
    return features_of(pixels, clips)


@pytest.fixture
def session(tiny_bundle: TinyBundle) -> Callable[..., LiveSession]:
    def make(**options) -> LiveSession:
        return LiveSession(tiny_bundle.localizer, features, **{"width": WIDTH, "height": HEIGHT, "fps": 2.0} | options)

    return make


def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a look at what is provisional takes."""
    monkeypatch.setattr(live_session, "PROVISIONAL_S", 0.0)
    monkeypatch.setattr(live_session, "_SHARE", 1)


def pictures(count: int, step_s: float = 0.5, origin_us: int = 0) -> list[Picture]:
    return [Picture(origin_us + round(n * step_s * 1e6), jpeg(n)) for n in range(count)]


def told(
    session: LiveSession, batches: Iterable[list[Picture]], held: Callable[[], None] = lambda: None
) -> list[Event]:
    async def run() -> list[Event]:
        events = []
        for batch in batches:
            events += [event async for event in session.push(batch)]
            held()
        return [*events, *[event async for event in session.finish()]]

    return asyncio.run(run())


def final(events: list[Event], origin_s: float = 0.0) -> pd.DataFrame:
    rows = [
        (e["start"] - origin_s, e["end"] - origin_s, e["label"], e["score"]) for e in events if e["state"] == "final"
    ]
    return pd.DataFrame(rows, columns=["start", "end", "label", "score"]).sort_values(
        ["start", "score"], ascending=[True, False], ignore_index=True
    )


def whole(bundle: TinyBundle, sent: list[Picture]) -> pd.DataFrame:
    """What the localizer finds with all features at hand."""
    clips = LiveClips(bundle.localizer.spec, lambda data: decode_jpeg(data, WIDTH, HEIGHT), picture=0.5)
    for picture in sent:
        clips.push((picture.pts_us - sent[0].pts_us) / 1e6, picture.jpeg)
    clips.finish()
    runs = list(iter(lambda: clips.take(10_000), None))
    stream = bundle.localizer.stream()
    parts = [stream.push(features_of(run.pixels, run.count), run.start_s) for run in runs]
    table = pd.concat([*parts, stream.finish()])
    return table.sort_values(["start", "score"], ascending=[True, False], ignore_index=True)


@pytest.mark.parametrize("origin_us", [0, 1_700_000_000_000_000])
def test_final_segments_are_those_of_the_whole_video(
    session: Callable[..., LiveSession], tiny_bundle: TinyBundle, origin_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_each_time(monkeypatch)
    sent = pictures(320, origin_us=origin_us)
    events = told(session(), [sent[i : i + 40] for i in range(0, 320, 40)])
    found, expected = final(events, origin_us / 1e6), whole(tiny_bundle, sent)
    assert len(found) > 20
    assert list(found.label) == list(expected.label)
    for column in ("start", "end", "score"):
        np.testing.assert_allclose(found[column], expected[column], atol=2e-5)
    # Some came before the end, and what was provisional is final or withdrawn: a client's list ends as ours.
    states = [event["state"] for event in events]
    assert states.index("final") < len(states) - 1 - states[::-1].index("provisional")
    shown: dict[int, str] = {}
    for event in events:
        assert shown.get(event["id"]) != "final"
        assert event["state"] != "withdrawn" or shown[event["id"]] == "provisional"
        shown[event["id"]] = event["state"]
    assert set(shown.values()) == {"final", "withdrawn"}


def test_provisional_segments_come_now_and_then(
    session: Callable[..., LiveSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    live = session()
    provisional = live.stream.provisional
    monkeypatch.setattr(live.stream, "provisional", lambda: asked.append(1) or provisional())
    monkeypatch.setattr(live_session, "PROVISIONAL_S", 3600.0)
    sent = pictures(60)
    told(live, [sent[i : i + 5] for i in range(0, 60, 5)])
    assert len(asked) == 1


def test_what_did_not_change_is_not_told_again(
    session: Callable[..., LiveSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_each_time(monkeypatch)
    live, sent = session(), pictures(41)

    async def run() -> tuple[int, int]:
        first = [event async for event in live.push(sent[:40])]
        live._news = True
        return len(first), len([event async for event in live.push([])])

    first, again = asyncio.run(run())
    assert first > 0
    assert again == 0


def test_pictures_that_are_left_out_are_counted(session: Callable[..., LiveSession]) -> None:
    live, sent = session(), pictures(30)
    large = cv2.imencode(".jpg", np.zeros((96, 128, 3), np.uint8))[1].tobytes()
    bad = [
        Picture(sent[10].pts_us, jpeg(3)),
        Picture(0, jpeg(3)),
        Picture(sent[10].pts_us + 1000, jpeg(3)),
        Picture(sent[10].pts_us + 300_000, b"no picture"),
        Picture(sent[10].pts_us + 310_000, jpeg(3)[:-300]),
        Picture(sent[10].pts_us + 320_000, large),
    ]
    events = told(live, [sent[:11], bad, sent[11:]])
    assert live.dropped == {"late": 2, "rate": 1, "damaged": 3}
    pd.testing.assert_frame_equal(final(events), final(told(session(), [sent])))


def test_a_damaged_picture_begins_nothing(session: Callable[..., LiveSession]) -> None:
    """Or what came hours later would be shown from then on."""
    sent = pictures(30, origin_us=3_600_000_000)
    live = session()
    events = told(live, [[Picture(0, b"no picture"), *sent]])
    assert live.dropped == {"damaged": 1}
    pd.testing.assert_frame_equal(final(events), final(told(session(), [sent])))


@pytest.mark.parametrize("jump_us", [61_000_000, 2**64 - 1 - 15_000_000])
def test_a_session_ends(session: Callable[..., LiveSession], jump_us: int) -> None:
    live, sent = session(longest_s=60.0), pictures(30)
    events = told(live, [[*sent, Picture(jump_us, jpeg(3))]])
    assert live.over
    assert final(events).end.max() <= 16.0


def test_memory_does_not_grow(session: Callable[..., LiveSession], monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty minutes of two pictures every three seconds; the model reads 130 s at a time."""
    look_each_time(monkeypatch)
    live, held = session(), []
    sent = pictures(800, step_s=1.5)
    batches = [sent[i : i + 40] for i in range(0, 800, 40)]
    told(live, batches, lambda: held.append(live.held))
    for name in held[0]:
        sizes = [one[name] for one in held]
        assert max(sizes[10:]) <= max(1.3 * max(sizes[:10]), 4), name
    assert max(one["features"] for one in held) < 400


@pytest.mark.parametrize("delay_s", [None, 20.0])
def test_how_late_a_final_segment_is(
    session: Callable[..., LiveSession], tiny_bundle: TinyBundle, delay_s: float | None
) -> None:
    live, sent, ends, every = session(delay_s=delay_s), pictures(320), [], []
    assert delay_s is None or 10.0 < live.delay_s <= delay_s

    async def run() -> None:
        for picture in sent:
            now = picture.pts_us / 1e6
            events = [event async for event in live.push([picture])]
            ends.extend((event["end"], now) for event in events if event["state"] == "final")
            every.extend(events)
        every.extend([event async for event in live.finish()])

    asyncio.run(run())
    assert len(ends) > 20
    if delay_s is not None:  # and they are those of the whole video, by the same windows
        localizer = tiny_bundle.localizer.sooner(delay_s - tiny_bundle.localizer.spec.stride_s - live.clips.delay_s)
        found, expected = final(every), whole(replace(tiny_bundle, localizer=localizer), sent)
        assert list(found.label) == list(expected.label)
        np.testing.assert_allclose(found.start, expected.start, atol=2e-5)
    assert max(now - end for end, now in ends) <= live.delay_s + 0.5  # seconds between pictures
