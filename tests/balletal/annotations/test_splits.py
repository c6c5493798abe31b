import json
import random
from collections import Counter

import pytest

from balletal.annotations import (
    Annotations,
    cross_validation,
    load_split,
    make_split,
    save_split,
    split_by_variation,
    split_by_video,
    video_table,
)
from balletal.annotations.splits import variation_of
from balletal.errors import InputError
from balletal.segments import segment_table

IDS = [f"{variation}{number:04d}" for variation in ("ACM", "LA1", "LA2", "SOL", "OD1") for number in range(20)]


def of(videos):
    return Annotations(segment_table(), video_table(videos))


def test_by_video_is_80_10_10():
    assert Counter(split_by_video(IDS, 0).values()) == {"training": 80, "validation": 10, "testing": 10}


@pytest.mark.parametrize("split", [split_by_video, split_by_variation])
def test_the_seed_decides_and_the_order_of_input_does_not(split):
    shuffled = random.Random(1).sample(IDS, len(IDS))
    assert split(IDS, 7) == split(shuffled + shuffled[:5], 7)
    assert len({json.dumps(split(IDS, seed)) for seed in range(8)}) > 4


def test_a_variation_is_in_one_subset():
    drawn = split_by_variation(IDS, 0)
    assert set(drawn) == set(IDS)
    assert len({(variation_of(video_id), subset) for video_id, subset in drawn.items()}) == 5
    assert Counter(drawn.values()) == {"training": 60, "validation": 20, "testing": 20}


def test_one_more_video_moves_few():
    before = split_by_video(IDS, 0)
    after = split_by_video([*IDS, "NEW0001"], 0)
    assert sum(after[video_id] != before[video_id] for video_id in IDS) <= 3


@pytest.mark.parametrize(
    ("n", "fractions", "expected"),
    [
        (1, (0.8, 0.1, 0.1), {"training": 1}),
        (3, (0.8, 0.1, 0.1), {"training": 1, "validation": 1, "testing": 1}),
        (4, (0.5, 0.5, 0.0), {"training": 2, "validation": 2}),
    ],
)
def test_few_videos(n, fractions, expected):
    assert Counter(split_by_video([f"v{i}" for i in range(n)], 0, fractions).values()) == expected


@pytest.mark.parametrize("by", ["video", "variation"])
def test_folds_hold_out_every_video_once(by):
    splits = cross_validation(IDS, by, 4, seed=3)
    held = [split.video_ids("validation") for split in splits]
    assert sorted(video_id for part in held for video_id in part) == sorted(IDS)
    assert [len(part) for part in held] == ([25] * 4 if by == "video" else [40, 20, 20, 20])
    for split, part in zip(splits, held, strict=True):
        assert set(split.video_ids("training")) == set(IDS) - set(part)
        assert not split.video_ids("testing")
        if by == "variation":
            assert not {v[:3] for v in part} & {v[:3] for v in split.video_ids("training")}
    assert cross_validation(reversed(IDS), by, 4, seed=3) == splits
    assert cross_validation(IDS, by, 4, seed=4) != splits


def test_folds_that_cannot_be():
    with pytest.raises(InputError, match="2 to 5, the variations"):
        cross_validation(IDS, "variation", 6)
    with pytest.raises(InputError, match="2 to 100, the videos"):
        cross_validation(IDS, "video", 1)
    with pytest.raises(InputError, match="by video or variation"):
        cross_validation(IDS, "published", 2)


def test_published():
    annotations = of({"u": {"subset": "train"}, "v": {"subset": "Validation"}, "w": {"subset": "testing"}})
    split = make_split(annotations, "published")
    assert split.videos == {"u": "training", "v": "validation", "w": "testing"}
    assert split.video_ids("validation") == ["v"]
    with pytest.raises(InputError, match="video u"):
        make_split(of({"u": {}}), "published")
    with pytest.raises(InputError, match="extra"):
        make_split(of({"u": {"subset": "extra"}}), "published")


def test_save_and_load(tmp_path):
    path = str(tmp_path / "split.json")
    split = make_split(of({video_id: {} for video_id in IDS}), "variation", 3)
    save_split(path, split)
    assert load_split(path) == split
    assert set(json.loads((tmp_path / "split.json").read_text())) == {"by", "seed", "videos"}


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"videos": {"u": "holdout"}}',
        '{"videos": {"u": "training"}, "seed": "one"}',
        '{"videos": {"u": "training"}, "seed": null}',
        '{"videos": {"u": "training", "u": "validation"}}',
    ],
)
def test_a_split_of_another_form(tmp_path, content):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"split\.json"):
        load_split(str(path))


def test_bad_requests():
    with pytest.raises(InputError, match="add up"):
        split_by_video(IDS, 0, (0.8, 0.1, 0.2))
    for by in ("video", "variation", "published"):
        with pytest.raises(InputError, match="at least one video"):
            make_split(of({}), by)


def test_large_variations_do_not_leave_folds_uneven():
    videos = [*(f"{name}0001" for name in ("AAA", "BBB", "CCC", "DDD")), *(f"EEE{i:04d}" for i in range(6))]
    for seed in range(5):
        parts = cross_validation(videos, "variation", 2, seed)
        assert sorted(len(part.video_ids("validation")) for part in parts) == [4, 6]
