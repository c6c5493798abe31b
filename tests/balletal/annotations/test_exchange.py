"""What other programs read has the form that they document."""

import json
from xml.etree import ElementTree as ET

import pytest

from balletal.annotations import Annotations, video_table
from balletal.annotations.exchange import eaf, label_studio, otio, srt, video_documents
from balletal.errors import InputError
from balletal.segments import segment_table

FOUND = segment_table(
    "u", [2.0, 0.0, 0.5, 3.0], [3.25, 1.0, 2.0, 3.0], ["B", "A\x00 &", "A\x00 &", "C"], score=[0.75, 0.5, 0.25, 1]
)


def test_srt() -> None:
    cues = srt(FOUND).split("\n\n")
    assert len(cues) == 3  # what lasts no time is no cue
    assert cues[1] == "2\n00:00:00,500 --> 00:00:02,000\nA\x00 & 25%"


def test_eaf_puts_overlaps_into_tiers_of_their_own() -> None:
    root = ET.fromstring(eaf(FOUND))
    times = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", "")) for slot in root.iter("TIME_SLOT")}
    assert list(times.values()) == sorted(set(times.values()))
    tiers = {
        tier.get("TIER_ID"): [
            (times[item.get("TIME_SLOT_REF1")], times[item.get("TIME_SLOT_REF2")], item.findtext("ANNOTATION_VALUE"))
            for item in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        for tier in root.iter("TIER")
    }
    assert tiers == {
        "A\ufffd &": [(0, 1000, "A\ufffd & 50%")],
        "A\ufffd & (2)": [(500, 2000, "A\ufffd & 25%")],
        "B": [(2000, 3250, "B 75%")],
    }
    kinds = {kind.get("LINGUISTIC_TYPE_ID") for kind in root.iter("LINGUISTIC_TYPE")}
    assert {tier.get("LINGUISTIC_TYPE_REF") for tier in root.iter("TIER")} == kinds


@pytest.mark.parametrize(("fps", "rate"), [(25.0, 25.0), (None, 1000.0)])
def test_otio_is_a_clip_with_markers(fps: float | None, rate: float) -> None:
    timeline = json.loads(otio(FOUND, "u", fps, 10.0))
    assert timeline["OTIO_SCHEMA"] == "Timeline.1"
    [track] = timeline["tracks"]["children"]
    [clip] = track["children"]
    assert (track["OTIO_SCHEMA"], track["kind"], clip["OTIO_SCHEMA"], clip["name"]) == (
        "Track.1",
        "Video",
        "Clip.2",
        "u",
    )
    assert clip["source_range"]["duration"] == {"OTIO_SCHEMA": "RationalTime.1", "rate": rate, "value": 10 * rate}
    assert clip["media_references"][clip["active_media_reference_key"]]["OTIO_SCHEMA"] == "MissingReference.1"
    marker = clip["markers"][0]
    assert (marker["OTIO_SCHEMA"], marker["name"]) == ("Marker.2", "B")
    span = marker["marked_range"]
    assert [span[key]["value"] / rate for key in ("start_time", "duration")] == [2.0, 1.25]
    assert len(clip["markers"]) == 4


def test_label_studio_counts_frames_from_one() -> None:
    annotations = Annotations(FOUND.iloc[:1], video_table({"u": {"fps": 10.0}, "empty": {}}))
    task, empty = json.loads(label_studio(annotations))
    assert task["data"] == {"video": "u", "fps": 10.0}
    [result] = task["predictions"][0]["result"]
    assert result["type"] == "timelinelabels"
    assert result["value"] == {"ranges": [{"start": 21, "end": 33}], "timelinelabels": ["B"]}
    assert result["score"] == 0.75
    assert empty["predictions"][0]["result"] == []


def test_a_video_id_stays_in_the_folder() -> None:
    annotations = Annotations(segment_table(score=()), video_table({"../a/b": {}}))
    assert list(video_documents(annotations, "srt")) == ["..%2Fa%2Fb.srt"]
    with pytest.raises(InputError, match="vtt, srt, eaf, otio"):
        video_documents(annotations, "docx")
