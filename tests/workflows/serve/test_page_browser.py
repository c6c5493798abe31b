"""The page in a browser, against a service in memory."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.workflows.serve.fake_service import FakeService, fake_app, serving
from workflows.serve.problems import Problem

FRAME = 1 / 25
STEPS = [("Pirouette", 0.5, 1.2, 0.9), ("Courus", 1.52, 2.28, 0.6), ("Courus", 2.6, 3.0, 0.1)]
OTHERS = [("Courus", 1.6, 2.4, 0.8)]


@pytest.fixture
def state() -> FakeService:
    return FakeService({"lstm@1": list(STEPS), "cnn@2": list(OTHERS)})


@pytest.fixture
def service(state: FakeService) -> Iterator[str]:
    with serving(fake_app(state)) as url:
        yield url


def send(tab: Any, path: Path) -> None:
    tab.locator(".drop input").set_input_files(path)
    tab.get_by_role("button", name="Find the steps").click()


def shown(tab: Any) -> list[str]:
    """The labels in the list of steps."""
    return tab.locator(".list li:not([hidden]) .label").all_inner_texts()


def seconds(tab: Any) -> float:
    tab.wait_for_function(
        "() => { const v = document.querySelector('video'); return v.readyState >= 2 && !v.seeking; }"
    )
    return tab.evaluate("document.querySelector('video').currentTime")


def open_video(tab: Any, service: str, state: FakeService, video: Path, models: tuple[str, ...] = ("lstm@1",)) -> str:
    """A video whose steps are found already, opened."""
    video_id = state.add_video("class.mp4", video.read_bytes())
    state.add_job(video_id, list(models), "succeeded")
    tab.goto(f"{service}/#/videos/{video_id}")
    tab.locator(".list button").first.wait_for()
    return video_id


def test_from_a_file_to_its_timeline(tab: Any, service: str, state: FakeService, video: Path) -> None:
    state.chunk_max, state.hold = 2000, "extracting"
    tab.goto(service)
    tab.get_by_text("None yet").wait_for()
    tab.get_by_label("cnn").check()
    send(tab, video)
    tab.get_by_role("heading", name="Watching the video").wait_for()
    tab.get_by_text("37 %").wait_for()
    video_id, content = next(iter(state.contents.items()))
    assert tab.url.endswith(f"#/videos/{video_id}")
    assert content == video.read_bytes()
    assert [offset for offset, _ in state.pieces] == list(range(0, len(content), 2000))
    state.hold = None
    tab.locator(".list button").first.wait_for()
    assert tab.locator(".job").count() == 0
    assert shown(tab) == ["Pirouette", "Courus"]

    tab.get_by_role("button", name="lstm: Courus · 1.52 s – 2.28 s · score 0.60").click()
    assert seconds(tab) == pytest.approx(1.52, abs=1e-3)
    assert tab.locator(".list [aria-current] .when").inner_text() == "1.52 s – 2.28 s"
    box = tab.locator(".timeline svg").bounding_box()
    tab.mouse.click(box["x"] + 128 + (box["width"] - 128) * 3.6 / 4, box["y"] + 5)
    assert seconds(tab) == pytest.approx(3.6, abs=0.01)
    tab.get_by_role("button", name="cnn: Courus · 1.60 s – 2.40 s · score 0.80").click()
    assert seconds(tab) == pytest.approx(1.6, abs=1e-3)
    assert tab.get_by_label("Steps of").input_value() == "cnn"

    tab.get_by_text("Save the steps as a file").click()
    links = [link.get_attribute("href") for link in tab.locator(".formats a").all()]
    job_id = next(iter(state.jobs))
    assert {urlsplit(link).path for link in links} == {f"/v1/jobs/{job_id}/export"}
    asked = [dict(parse_qsl(urlsplit(link).query)) for link in links]
    formats = ["csv", "eaf", "vtt", "srt", "otio", "json", "activitynet", "label-studio"]
    assert [(one["format"], one["model"]) for one in asked] == [(f, m) for m in ("lstm@1", "cnn@2") for f in formats]
    with tab.expect_download() as download:
        tab.get_by_role("link", name="JSON").first.click()
    assert download.value.suggested_filename == "steps.json"
    saved = json.loads(download.value.path().read_text())
    assert [(one["label"], one["score"]) for one in saved] == [("Pirouette", 0.9), ("Courus", 0.6)]


def test_a_reload_in_the_middle_of_an_upload(tab: Any, service: str, state: FakeService, video: Path) -> None:
    state.chunk_max, state.room = 500, 3
    tab.goto(service)
    send(tab, video)
    while len(state.pieces) < 3:
        tab.wait_for_timeout(20)
    tab.reload()
    tab.get_by_text(re.compile(r"class\.mp4 is there to \d+ %")).wait_for()
    before = len(state.pieces)
    state.room = math.inf
    send(tab, video)
    tab.locator(".list button").first.wait_for()
    assert before < len(state.pieces)
    assert len(state.uploads) == 1
    assert list(state.contents.values()) == [video.read_bytes()]
    assert sum(size for _, size in state.pieces) == video.stat().st_size
    tab.goto(f"{service}/#/")
    tab.get_by_role("link", name="class.mp4").wait_for()
    assert tab.get_by_text("is there to").count() == 0


def test_a_lost_network_and_a_pause(tab: Any, service: str, state: FakeService, video: Path) -> None:
    state.chunk_max, state.room = 500, 2
    tab.goto(service)
    send(tab, video)
    while len(state.pieces) < 2:
        tab.wait_for_timeout(20)
    tab.context.set_offline(True)
    state.room = 3  # the one on its way may come through; the next one cannot leave
    tab.get_by_text("The connection is lost").wait_for()
    tab.context.set_offline(False)
    tab.get_by_text("% of").wait_for()
    tab.get_by_role("button", name="Pause").click()
    tab.get_by_text("Choose the same file again").wait_for()
    state.room = math.inf
    tab.get_by_role("button", name="Find the steps").click()
    tab.locator(".list button").first.wait_for()
    assert list(state.contents.values()) == [video.read_bytes()]
    assert len(state.uploads) == 1


def test_a_session_that_ends_in_the_middle_of_an_upload(
    tab: Any, service: str, state: FakeService, video: Path
) -> None:
    state.chunk_max, state.room = 500, 2
    tab.goto(service)
    send(tab, video)
    while len(state.pieces) < 2:
        tab.wait_for_timeout(20)
    state.token, state.room = "sesame", math.inf
    tab.get_by_label("Token").fill("sesame")
    tab.get_by_role("button", name="Sign in").click()
    tab.locator(".list button").first.wait_for()
    assert list(state.contents.values()) == [video.read_bytes()]
    assert len(state.uploads) == 1


# How often the video comes round, and how far it goes.
TURNS = """() => {
  const video = document.querySelector("video");
  let last = -1;
  window.turns = window.far = 0;
  video.addEventListener("timeupdate", () => {
    far = Math.max(far, video.currentTime);
    if (video.currentTime < last) turns++;
    last = video.currentTime;
  });
}"""


def test_keys(tab: Any, service: str, state: FakeService, video: Path) -> None:
    open_video(tab, service, state, video)
    press = tab.keyboard.press
    seconds(tab)
    press("n")
    assert seconds(tab) == pytest.approx(0.5, abs=1e-3)
    press("n")
    assert seconds(tab) == pytest.approx(1.52, abs=1e-3)
    press("p")
    assert seconds(tab) == pytest.approx(0.5, abs=1e-3)
    press(".")
    assert seconds(tab) == pytest.approx(13.5 * FRAME, abs=1e-3)
    press(",")
    assert seconds(tab) == pytest.approx(12.5 * FRAME, abs=1e-3)
    press("ArrowRight")
    assert seconds(tab) == pytest.approx(12.5 * FRAME + 1, abs=1e-3)
    for _ in range(9):
        press("[")
    assert tab.evaluate("document.querySelector('video').playbackRate") == 0.1
    for _ in range(9):
        press("]")
    assert tab.get_by_label("Speed").input_value() == "2"
    press("n")
    press("l")
    assert tab.get_by_role("button", name="Repeat step").get_attribute("aria-pressed") == "true"
    assert tab.locator('.timeline rect[stroke-dasharray="4 3"]').count() == 1
    # It comes round: the time falls though the video plays.
    tab.evaluate(TURNS)
    tab.wait_for_function("() => turns >= 2")
    assert tab.evaluate("far") < 2.6
    press(" ")  # while it comes round: without that it may come to its end, and a space would play it again
    assert tab.evaluate("document.querySelector('video').paused")
    press("l")
    segments = tab.locator(".timeline [role=button]")
    assert segments.count() == 2
    press("?")
    tab.get_by_role("heading", name="Keys").wait_for()
    press("n")  # the dialog has the keys now
    press("Escape")
    before = tab.locator(".timeline text").all_inner_texts()
    press("+")
    assert tab.locator(".timeline text").all_inner_texts() != before
    press("0")
    assert tab.locator(".timeline text").all_inner_texts() == before
    segments.first.focus()
    press("ArrowRight")
    press("Enter")
    assert seconds(tab) == pytest.approx(1.52, abs=1e-3)


def test_filters(tab: Any, service: str, state: FakeService, video: Path) -> None:
    open_video(tab, service, state, video)
    slider = tab.get_by_label("Show steps")
    assert slider.input_value() == "30"
    slider.fill("0")
    tab.get_by_role("heading", name="3 steps").wait_for()
    assert shown(tab) == ["Pirouette", "Courus", "Courus"]
    courus = tab.locator(".legend").get_by_role("button", name="Courus")
    courus.click()
    assert shown(tab) == ["Pirouette"]
    assert tab.locator(".timeline [role=button]").count() == 1
    courus.click()
    slider.fill("95")
    tab.get_by_text("weaker guesses").wait_for()
    assert shown(tab) == []


TRUTHS = {
    "a.csv": 'video,label,start,end\nother.mp4,Jete,1,2\nclass.mp4,"Pas, de",0.5,1.25\n',
    "a.vtt": "WEBVTT\n\n1\n00:00.500 --> 00:01.250\nPas, de 90%\n",
    "a.json": '{"database": {"class": {"annotations": [{"label": "Pas, de", "segment": [0.5, 1.25]}]}, "other": {}}}',
}


def test_annotations_of_the_users_own(tab: Any, service: str, state: FakeService, video: Path, tmp_path: Path) -> None:
    open_video(tab, service, state, video)
    tab.get_by_text("Compare with").click()
    field = tab.get_by_label("Annotations", exact=True)
    wrong = {
        "bad.csv": ("a,b\n1,2\n", "Expected a table"),
        "none.vtt": ("WEBVTT\n", "no steps"),
        "many.json": ('{"results": {"x": [], "y": []}}', "none is named class"),
    }
    for name, (text, said) in wrong.items():
        (tmp_path / name).write_text(text)
        field.set_input_files(tmp_path / name)
        tab.get_by_text(said).wait_for()
    for name, text in TRUTHS.items():
        (tmp_path / name).write_text(text)
        field.set_input_files(tmp_path / name)
        tab.get_by_role("button", name="your annotations: Pas, de · 0.50 s – 1.25 s").wait_for()
        field.set_input_files(tmp_path / "none.vtt")  # what is there stays
        tab.get_by_text("no steps").wait_for()


def test_a_video_that_browsers_do_not_play(tab: Any, service: str, state: FakeService, video: Path) -> None:
    video_id = state.add_video("class.avi", video.read_bytes())
    state.videos[video_id] |= {"playable": False, "warnings": ["The file ends early."]}
    state.previews_pending = 10_000
    tab.goto(f"{service}/#/videos/{video_id}")
    tab.get_by_text("A copy that browsers can play").wait_for()
    tab.get_by_text("The file ends early.").wait_for()
    state.previews_pending = 0
    assert seconds(tab) == 0
    tab.get_by_text("A copy that browsers can play").wait_for(state="detached")  # goes with the first picture


def test_names_and_labels_of_others_stay_text(tab: Any, service: str, state: FakeService, video: Path) -> None:
    label = "<img src=x onerror=alert(1)>"
    state.detections["lstm@1"] = [(label, 0.5, 1.0, 0.9)]
    video_id = state.add_video("<script>alert(2)</script>.mp4", video.read_bytes())
    state.add_job(video_id, ["lstm@1"], "succeeded")
    tab.goto(service)
    tab.get_by_role("link", name="<script>alert(2)</script>.mp4").click()
    tab.locator(".list button").first.wait_for()
    assert shown(tab) == [label]
    assert tab.locator("h1").inner_text() == "<script>alert(2)</script>.mp4"
    assert tab.locator(".legend").inner_text().endswith(label)
    tab.get_by_role("button", name=f"lstm: {label}").click()
    assert tab.locator("main img, main script").count() == 0


def test_problems_in_plain_words(tab: Any, service: str, state: FakeService, video: Path) -> None:
    state.problems["uploads"] = Problem(429, "quota", "Quota", "64 of 64 GiB are used.")
    tab.goto(service)
    send(tab, video)
    tab.get_by_text("Your space is full").wait_for()
    tab.get_by_text("Details").click()
    tab.get_by_text(re.compile("64 of 64 GiB.*Request id: ", re.DOTALL)).wait_for()
    del state.problems["uploads"]
    state.problems["complete"] = Problem(415, "bad-video", "No video", "expected a video", kind="not-a-video")
    tab.get_by_role("button", name="Find the steps").click()
    tab.get_by_text("This video cannot be used.").wait_for()
    assert tab.get_by_text("Choose the same file again").count() == 0
    del state.problems["complete"]
    state.problems["job"] = Problem(422, "bad-video", "", "No picture could be decoded.")
    tab.get_by_role("button", name="Find the steps").click()
    tab.get_by_role("heading", name="It did not work").wait_for()
    tab.get_by_text("No picture could be decoded.").wait_for()
    tab.goto(f"{service}/#/videos/{'0' * 24}")
    tab.get_by_text("This is not here any more.").wait_for()


def test_sign_in(tab: Any, service: str, state: FakeService) -> None:
    state.token = "sesame"
    tab.goto(service)
    tab.get_by_label("Token").fill("guess")
    tab.get_by_role("button", name="Sign in").click()
    tab.get_by_text("does not know this token").wait_for()
    tab.get_by_label("Token").fill("sesame")
    tab.get_by_role("button", name="Sign in").click()
    tab.get_by_text("None yet").wait_for()
    tab.get_by_role("button", name="Sign out").wait_for()
    assert "sesame" not in tab.evaluate("JSON.stringify(localStorage)")


def test_come_back_stop_and_delete(tab: Any, service: str, state: FakeService, video: Path) -> None:
    state.hold = "extracting"
    tab.goto(service)
    send(tab, video)
    tab.get_by_text("37 %").wait_for()
    tab.goto("about:blank")
    job_id = next(iter(state.jobs))
    tab.goto(f"{service}/#/jobs/{job_id}")
    tab.get_by_text("37 %").wait_for()
    assert tab.url.endswith(f"#/videos/{state.of_video[job_id]}")
    tab.get_by_role("button", name="Stop").click()
    tab.get_by_role("button", name="Stop it").click()
    tab.get_by_role("heading", name="Stopped").wait_for()
    assert state.jobs[job_id]["status"] == "cancelled"
    tab.get_by_role("link", name="Videos", exact=True).click()
    tab.get_by_text("Stopped").wait_for()
    tab.get_by_role("button", name="Delete class.mp4").click()
    tab.get_by_role("button", name="Keep").click()
    tab.get_by_role("button", name="Delete class.mp4").click()
    tab.get_by_role("button", name="Delete", exact=True).last.click()
    tab.get_by_text("None yet").wait_for()
    assert state.videos == state.jobs == {}


def test_live(tab: Any, service: str, state: FakeService) -> None:
    tab.goto(f"{service}/#/live")
    tab.get_by_role("button", name="Start the camera").click()
    tab.locator('.timeline rect[stroke-dasharray="3 2"]').wait_for()  # provisional
    tab.get_by_role("button", name=re.compile(r"^lstm: Pirouette · .*score 0\.80$")).nth(1).wait_for()
    tab.get_by_text("final about 1.2 s after").wait_for()
    tab.get_by_role("button", name="Stop").click()
    tab.get_by_text("Ended.").wait_for()
    times = [micros for micros, _ in state.live_frames]
    assert times == sorted(set(times))
    assert all(jpeg[:3] == b"\xff\xd8\xff" and len(jpeg) <= 256 << 10 for _, jpeg in state.live_frames)


def test_a_phone_needs_no_scrolling_sideways(tab: Any, service: str, state: FakeService, video: Path) -> None:
    tab.set_viewport_size({"width": 360, "height": 740})
    video_id = open_video(tab, service, state, video, ("lstm@1", "cnn@2"))
    state.videos[video_id]["name"] = "a-very-long-name-without-any-blank-" * 5
    for place, there in (("#/live", "Start the camera"), ("#/", "Your videos"), (f"#/videos/{video_id}", "2 steps")):
        tab.goto(f"{service}/{place}")
        tab.get_by_text(there).first.wait_for()
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= 360, place
