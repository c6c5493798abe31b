"""Detection metrics by ActivityNet's protocols: mAP (`eval_detection`), AR@AN and its area (`eval_proposal`).

Where the protocols leave something open: scores that tie keep the order of the table, a detection label that the ground
truth does not know is an error with its name, and a tIoU of 0/0 is 0. Nothing is clipped; duplicate and empty ground
truth segments count as positives.
"""

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from balletal.errors import InputError
from balletal.segments import DETECTION_COLUMNS, SEGMENT_COLUMNS

BALLET_TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)

# (detection, ground truth) pairs held in memory at once; their arrays take about 100 bytes a pair.
_PAIRS_AT_ONCE = 2_000_000
_NO_PAIRS = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))


def evaluate_detections(
    ground_truth: pd.DataFrame,
    detections: pd.DataFrame,
    tiou: ArrayLike = BALLET_TIOU,
    video_ids: Collection[str] | None = None,
    labels: Collection[str] | None = None,
) -> dict:
    """mAP, AR@AN and the area under AR over AN of detections.

    Args:
        ground_truth: segment table.
        detections: segment table with ``score``.
        tiou: thresholds in (0, 1]; every average is over these.
        video_ids: the videos whose ground truth counts (a subset); None is all. Detections elsewhere are false
            positives.
        labels: labels that a detection may have though ``ground_truth`` lacks them. Like labels of other subsets they
            have no AP; they are counted in ``without_ground_truth``.

    Returns:
        JSON-able: ``tiou`` [T], ``map`` [T], ``average_map``, ``ap_by_class`` {label: [T]} over the classes of the
        ground truth, ``ar`` {"1", "5", "10", "100": average recall at so many detections a video}, all in [0, 1];
        ``auc`` in [0, 99]: the area under recall over AN 1..100 in percent of 100, so that a perfect result gives 99;
        the counts ``videos``, ``segments``, ``detections`` and ``without_ground_truth`` {label: detections}.

    Raises:
        InputError: missing columns, times or scores that are not finite, no ground truth, a label unknown to the ground
            truth, thresholds outside (0, 1].
    """
    check_table("ground truth", ground_truth, SEGMENT_COLUMNS)
    check_table("detections", detections, DETECTION_COLUMNS)
    thresholds = check_tiou(tiou)
    known = set(ground_truth["label"].unique()) | set(labels or ())
    unknown = sorted(set(detections["label"].unique()) - known)
    if unknown:
        raise InputError(
            "detections", expected=f"labels of the ground truth: {', '.join(sorted(known))}", found=", ".join(unknown)
        )
    if video_ids is not None:
        ground_truth = ground_truth[ground_truth["video_id"].isin(list(video_ids))]
    if ground_truth.empty:
        raise InputError("ground truth", expected="at least one segment", found="none")

    ap = average_precision(ground_truth, detections, thresholds)
    mean = np.mean(list(ap.values()), axis=0)
    recall, auc = average_recall(ground_truth, detections, thresholds)
    extra = detections.loc[~detections["label"].isin(list(ap)), "label"].value_counts()
    return {
        "tiou": thresholds.tolist(),
        "map": mean.tolist(),
        "average_map": float(mean.mean()),
        "ap_by_class": {label: values.tolist() for label, values in ap.items()},
        "ar": {str(n): float(recall[n - 1]) for n in (1, 5, 10, 100)},
        "auc": auc,
        "videos": int(ground_truth["video_id"].nunique()),
        "segments": len(ground_truth),
        "detections": len(detections),
        "without_ground_truth": {str(label): int(n) for label, n in sorted(extra.items())},
    }


def average_precision(
    ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """AP at each threshold, (T,), of every label of the ground truth, sorted by label; 0 where nothing was detected."""
    positives = ground_truth["label"].value_counts().sort_index()
    areas = precision_areas(detections, match_detections(ground_truth, detections, tiou) >= 0, positives)
    return {str(name): area for name, area in zip(positives.index, areas, strict=True)}


def precision_areas(
    detections: pd.DataFrame, hit: NDArray[np.bool_], positives: pd.Series, counted: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Area under the monotone precision envelope at all points: AP of each label.

    Args:
        detections: segment table with ``score``.
        hit: (T, D) which detections are true positives at each threshold.
        positives: how many segments there are to find of each label; the index names the labels.
        counted: (T, D) the detections that exist at each threshold; the others are as if never made. None: all.

    Returns:
        (C, T) in the order of ``positives``; 0 where nothing was detected.
    """
    label = positives.index.get_indexer(pd.Index(detections["label"]))
    order = np.lexsort((-detections["score"].to_numpy(np.float64), label))
    edges = np.searchsorted(label[order], np.arange(len(positives) + 1))
    areas = np.empty((len(positives), len(hit)))
    for level, right in enumerate(hit):
        # Recall grows at true positives alone, and between two of them precision falls: no other point matters.
        true = right[order]
        place = np.arange(len(order)) if counted is None else counted[level, order].cumsum() - 1
        for i, n in enumerate(positives):
            mine = slice(edges[i], edges[i + 1])
            at = place[mine][true[mine]] - (place[edges[i] - 1] + 1 if edges[i] else 0)
            precision = np.arange(1, len(at) + 1) / (at + 1)
            areas[i, level] = np.maximum.accumulate(precision[::-1]).sum() / n
    return areas


def match_detections(
    ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Which ground truth segment each detection finds, one to one.

    By descending score each detection takes, of its label's segments in its video that are still free and have
    tIoU >= threshold, the one with the highest tIoU.

    Returns:
        (T, D) positions in ``ground_truth``, -1 for a false positive, in the order of ``detections``.
    """
    n, m = len(detections), len(ground_truth)
    group_d, group_g = group_codes(detections, ground_truth, ["video_id", "label"])
    order = np.argsort(-detections["score"].to_numpy(np.float64), kind="stable")
    times_d, times_g = segment_times(detections)[order], segment_times(ground_truth)

    pairs = list(overlapping_pairs(group_d[order], times_d, group_g, times_g, tiou.min()))
    rank, gt, iou = (np.concatenate(parts) for parts in zip(*pairs, strict=True)) if pairs else _NO_PAIRS
    best_first = np.lexsort((gt, -iou, rank))
    rank, gt, iou = rank[best_first], gt[best_first], iou[best_first]
    matched = np.full((len(tiou), n), -1)
    for level, threshold in enumerate(tiou):
        enough = iou >= threshold
        matched[level, order] = _assign(rank[enough], gt[enough], n, m)
    return matched


def _assign(rank: NDArray[np.int64], gt: NDArray[np.int64], n: int, m: int) -> NDArray[np.int64]:
    """Which of m segments each of n ranked detections takes, (n,), -1 for none, given pairs by rank, best first."""
    found = np.full(n, -1)
    taken = np.zeros(m, dtype=bool)
    first = np.empty(m, dtype=np.int64)
    # Each round settles, in all groups at once, the detections that no earlier one can still get in the way of: their
    # best candidate is wanted by nobody before them. At least one a group, so few rounds.
    while len(rank):
        first[gt[::-1]] = rank[::-1]  # of repeated positions the last written stays: the earliest detection
        best = np.ones(len(rank), dtype=bool)
        best[1:] = rank[1:] != rank[:-1]
        settled = best & (first[gt] == rank)
        found[rank[settled]] = gt[settled]
        taken[gt[settled]] = True
        alive = (found[rank] < 0) & ~taken[gt]
        rank, gt = rank[alive], gt[alive]
    return found


def average_recall(
    ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Class-agnostic recall, averaged over the thresholds, at AN = 1..100 detections a video on average.

    A segment is recalled when any detection overlaps it enough. Only videos with ground truth count. AN is reached
    by giving every video the same fraction of its own list.

    Returns:
        recall (100,) in [0, 1]; the area under it from 1 to 100, in percent of 100.
    """
    group_d, group_g = group_codes(detections, ground_truth, ["video_id"])
    videos = len(np.unique(group_g))
    annotated = np.isin(group_d, group_g)
    if not annotated.any():
        return np.zeros(100), 0.0
    # By video, then by descending score: a detection's place is its rank in its video's list.
    order = np.lexsort((-detections["score"].to_numpy(np.float64), group_d))
    order = order[annotated[order]]
    group_d = group_d[order]
    size = np.bincount(group_d, minlength=int(group_g.max()) + 1)
    place = np.arange(len(order)) - (np.cumsum(size) - size)[group_d]
    kept = np.minimum((size * (100 * float(videos) / len(detections))).astype(int), size)
    total = int(kept.sum())
    if total == 0:
        return np.zeros(100), 0.0
    short = place < kept[group_d]
    order, group_d, place = order[short], group_d[short], place[short]

    never = np.iinfo(np.int64).max
    found_at = np.full((len(tiou), len(ground_truth)), never)
    pairs = overlapping_pairs(
        group_d, segment_times(detections)[order], group_g, segment_times(ground_truth), tiou.min()
    )
    for detection, gt, iou in pairs:
        for level, threshold in enumerate(tiou):
            enough = iou >= threshold
            np.minimum.at(found_at[level], gt[enough], place[detection[enough]])

    # The fractions in the very order of operations of the protocol: they are truncated to whole detections.
    fractions = np.arange(1, 101) / 100.0 * (100 * float(videos) / total)
    recall = np.empty(100)
    for i, fraction in enumerate(fractions):
        shown = np.minimum((kept * fraction).astype(int), kept)
        recall[i] = (found_at < shown[group_g]).mean(axis=1).mean()
    an = fractions * (float(total) / videos)
    area = ((recall[1:] + recall[:-1]) / 2 * np.diff(an)).sum()
    return recall, float(100.0 * area / an[-1])


def overlapping_pairs(
    group_d: NDArray[np.int64],
    times_d: NDArray[np.float64],
    group_g: NDArray[np.int64],
    times_g: NDArray[np.float64],
    least: float,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Pairs of a detection and a true segment of one group with tIoU >= ``least``: positions and tIoU, in chunks."""
    # A segment that overlaps a detection begins before its end, and not long before its start. Starts are compared as
    # ranks, whole numbers like the groups, so that one sorted list of both answers for all groups.
    by_group = np.lexsort((times_g[:, 0], group_g))
    starts = np.sort(times_g[:, 0])
    rank = np.searchsorted(starts, times_g[by_group, 0])
    keys = group_g[by_group] * (len(starts) + 1) + rank
    reach = (times_g[:, 1] - times_g[:, 0]).max(initial=0.0) + 1e-9 * np.abs(times_g).max(initial=1.0)  # for rounding
    since, until = (np.searchsorted(starts, t) for t in (times_d[:, 0] - reach, times_d[:, 1]))
    first = np.searchsorted(keys, group_d * (len(starts) + 1) + since)
    count = (np.searchsorted(keys, group_d * (len(starts) + 1) + until) - first).clip(min=0)
    before = np.concatenate([[0], np.cumsum(count)])
    start = 0
    while start < len(group_d):
        # At least one detection, however many segments its video has.
        stop = max(start + 1, int(np.searchsorted(before, before[start] + _PAIRS_AT_ONCE, side="right")) - 1)
        n = count[start:stop]
        detection = np.repeat(np.arange(start, stop), n)
        within = np.arange(len(detection)) - np.repeat(before[start:stop] - before[start], n)
        gt = by_group[np.repeat(first[start:stop], n) + within]
        iou = _paired_tiou(times_d[detection], times_g[gt])
        enough = iou >= least
        yield detection[enough], gt[enough], iou[enough]
        start = stop


def _paired_tiou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """tIoU of row k of a (N, 2) with row k of b (N, 2): (N,); 0/0 is 0."""
    overlap = (np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])).clip(min=0.0)
    union = (b[:, 1] - b[:, 0]) + (a[:, 1] - a[:, 0]) - overlap
    return np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)


def group_codes(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, columns: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One integer for each distinct value of ``columns``, the same in both tables."""
    both = pd.concat([detections[columns], ground_truth[columns]], ignore_index=True)
    code = both.groupby(columns, sort=False, observed=True).ngroup().to_numpy().astype(np.int64)
    return code[: len(detections)], code[len(detections) :]


def segment_times(table: pd.DataFrame) -> NDArray[np.float64]:
    """(N, 2) start and end of each row, seconds."""
    return table[["start", "end"]].to_numpy(np.float64)


def check_tiou(tiou: ArrayLike) -> NDArray[np.float64]:
    """Thresholds as an array.

    Raises:
        InputError: none, or one outside (0, 1].
    """
    thresholds = np.atleast_1d(np.asarray(tiou, dtype=np.float64))
    if not len(thresholds) or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise InputError("tiou", expected="thresholds in (0, 1]", found=str(thresholds.tolist()))
    return thresholds


def check_table(name: str, table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    """That a segment table has its columns, and finite times and scores.

    Raises:
        InputError: it has not; the video of the first bad row is named.
    """
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(name, expected=f"columns {', '.join(columns)}", found=f"no {', '.join(missing)}")
    for column in columns:
        if column in ("start", "end", "score"):
            bad = ~np.isfinite(table[column].to_numpy(np.float64))
            if bad.any():
                row = table.iloc[int(bad.argmax())]
                raise InputError(
                    f"{name}, video {row['video_id']}",
                    expected=f"a finite {column}",
                    found=f"{row[column]} ({int(bad.sum())} such rows)",
                )
