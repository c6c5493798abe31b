"""Which videos a model is trained, validated and tested on."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from balletal import files
from balletal.annotations.table import SUBSETS, Annotations, subset_name
from balletal.errors import InputError

FRACTIONS = (0.8, 0.1, 0.1)

By = Literal["video", "variation", "published"]


@dataclass(frozen=True)
class Split:
    """A subset for each video.

    Attributes:
        by: ``video``, ``variation`` or ``published``.
        seed: of the draw; it says nothing of a published split.
        videos: video id -> ``training``, ``validation`` or ``testing``.
    """

    by: str
    seed: int
    videos: dict[str, str]

    def video_ids(self, subset: str) -> list[str]:
        """The videos of one subset, sorted."""
        return sorted(video_id for video_id, name in self.videos.items() if name == subset)


def variation_of(video_id: str) -> str:
    """The variation that AnnChor's video shows: the first three letters of its id.

    >>> variation_of("LA10001")
    'LA1'
    """
    return video_id[:3]


def make_split(annotations: Annotations, by: By, seed: int = 0, fractions: Sequence[float] = FRACTIONS) -> Split:
    """Split the videos of ``annotations``.

    Args:
        fractions: of training, validation and testing, where the split is drawn.

    Raises:
        InputError: no videos; ``published`` where a video has no subset or one of another name.
    """
    ids = [str(video_id) for video_id in annotations.videos["video_id"]]
    if by == "published":
        return Split(by, seed, _published(annotations))
    draw = split_by_video if by == "video" else split_by_variation
    return Split(by, seed, draw(ids, seed, fractions))


def split_by_video(video_ids: Iterable[str], seed: int, fractions: Sequence[float] = FRACTIONS) -> dict[str, str]:
    """Draw a subset for each video; the order of ``video_ids`` does not matter.

    Args:
        fractions: of training, validation and testing. A subset with a fraction above 0 gets at least one video where
            there are enough.
    """
    return _draw(sorted(set(video_ids)), seed, fractions)


def split_by_variation(video_ids: Iterable[str], seed: int, fractions: Sequence[float] = FRACTIONS) -> dict[str, str]:
    """Draw a subset for each variation; all its videos go there, so a subset shows choreography no other has."""
    ids = sorted(set(video_ids))
    drawn = _draw(sorted({variation_of(video_id) for video_id in ids}), seed, fractions)
    return {video_id: drawn[variation_of(video_id)] for video_id in ids}


def cross_validation(video_ids: Iterable[str], by: By, folds: int, seed: int = 0) -> list[Split]:
    """Splits that each hold out another part of the videos: every video is validated on once, and never testing.

    Args:
        by: ``video``, or ``variation``: all videos of a variation are held out together.
        folds: parts, as equal in videos as whole variations allow.

    Raises:
        InputError: ``published``; fewer than two folds, or fewer videos (variations) than folds.
    """
    if by == "published":
        raise InputError("folds", expected="a split by video or variation", found=by)
    ids = sorted(set(video_ids))
    groups: dict[str, list[str]] = {}
    for video_id in ids:
        groups.setdefault(video_id if by == "video" else variation_of(video_id), []).append(video_id)
    if not 2 <= folds <= len(groups):
        raise InputError("folds", expected=f"2 to {len(groups)}, the {by}s that there are", found=str(folds))
    held: list[list[str]] = [[] for _ in range(folds)]
    for name in sorted(_shuffled(groups, seed), key=lambda name: -len(groups[name])):  # the largest while all is empty
        min(held, key=len).extend(groups[name])
    return [
        Split(by, seed, dict.fromkeys(ids, "training") | dict.fromkeys(sorted(part), "validation")) for part in held
    ]


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    # Drawn by hash: one more video moves hardly any other, and no random generator can change under it.
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _draw(names: list[str], seed: int, fractions: Sequence[float]) -> dict[str, str]:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InputError("split", expected="three fractions that add up to 1", found=str(list(fractions)))
    if not names:
        raise InputError("split", expected="at least one video", found="none")
    drawn = _shuffled(names, seed)
    enough = len(names) >= sum(fraction > 0 for fraction in fractions)
    held = [max(round(fraction * len(names)), int(enough and fraction > 0)) for fraction in fractions[1:]]
    subset = ["validation"] * held[0] + ["testing"] * held[1]
    subset += ["training"] * (len(names) - len(subset))
    return dict(sorted(zip(drawn, subset, strict=False)))


def _published(annotations: Annotations) -> dict[str, str]:
    videos = {}
    for video_id, subset in zip(annotations.videos["video_id"], annotations.videos["subset"], strict=True):
        name = subset_name(subset) if isinstance(subset, str) else None
        if name not in SUBSETS:
            raise InputError(f"video {video_id}", expected=f"a subset: {', '.join(SUBSETS)}", found=str(subset))
        videos[str(video_id)] = name
    if not videos:
        raise InputError("split", expected="at least one video", found="none")
    return videos


def save_split(uri: str, split: Split) -> None:
    """Write ``{"by", "seed", "videos": {video id: subset}}`` as JSON."""
    files.write_json(uri, {"by": split.by, "seed": split.seed, "videos": split.videos})


def load_split(uri: str) -> Split:
    """Read a split that :func:`save_split` wrote, or one made by hand.

    Raises:
        InputError: it has another form, a subset of another name, or a video twice.
    """
    data: Any = files.read_json(uri, unique=True)
    if not isinstance(data, dict) or not isinstance(data.get("videos"), dict):
        raise InputError(uri, expected='a split {"by", "seed", "videos": {video id: subset}}', found=str(data)[:80])
    for video_id, subset in data["videos"].items():
        if subset not in SUBSETS:
            raise InputError(f"{uri}, video {video_id}", expected=f"one of {', '.join(SUBSETS)}", found=repr(subset))
    seed = data.get("seed", 0)
    if not isinstance(seed, int):
        raise InputError(f"{uri}, seed", expected="a whole number", found=repr(seed))
    return Split(str(data.get("by", "video")), seed, dict(data["videos"]))
