"""The evaluator and NMS against plain Python loops: `python -m tests.benchmarks.metrics` prints Markdown tables.

Ground truth and detections are drawn: 10 000 videos of a minute, 25 segments and 100 detections each, half of which lie
near a segment, 11 classes. Times are CPU seconds of one thread, so that other work on the machine tells little. The
loops are ours, written from the description of the public protocol; they go class by class and are timed on one class,
then scaled by the number of detections. Their AP of that class must be the evaluator's.
"""

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from balletal.metrics.detection import BALLET_TIOU, average_precision, evaluate_detections
from balletal.segments import segment_table
from balletal.tal.nms import Method, soft_nms

CLASSES, SEGMENTS, DETECTIONS, SECONDS = 11, 25, 100, 60.0


def draw(videos: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ground truth and detections."""
    rng = np.random.default_rng(0)

    def table(n: int) -> pd.DataFrame:
        start = rng.uniform(0, SECONDS, n)
        ids, labels = rng.integers(0, videos, n), rng.integers(0, CLASSES, n)
        return segment_table([f"v{i}" for i in ids], start, start + rng.uniform(0.3, 1.2, n), [f"c{i}" for i in labels])

    truth = table(videos * SEGMENTS)
    half = videos * DETECTIONS // 2
    near = truth.sample(n=half, replace=True, random_state=0).reset_index(drop=True)
    near[["start", "end"]] += rng.normal(0, 0.2, (half, 2))
    found = pd.concat([near, table(half)], ignore_index=True)
    return truth, found.assign(score=rng.uniform(0, 1, len(found)))


def data_frame_loop(truth: pd.DataFrame, found: pd.DataFrame) -> list[float]:
    """AP of one class at each threshold, as the protocol is published: rows of data frames, one after the other."""
    hits = np.zeros((len(BALLET_TIOU), len(found)), bool)
    taken = np.zeros((len(BALLET_TIOU), len(truth)), bool)
    by_video = truth.reset_index(drop=True).groupby("video_id")
    ranked = found.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
    for i, row in ranked.iterrows():
        try:
            mine = by_video.get_group(row["video_id"]).reset_index()
        except KeyError:
            continue
        overlap = (np.minimum(mine["end"], row["end"]) - np.maximum(mine["start"], row["start"])).clip(lower=0.0)
        iou = (overlap / ((mine["end"] - mine["start"]) + (row["end"] - row["start"]) - overlap)).to_numpy()
        for level, threshold in enumerate(BALLET_TIOU):
            for j in np.argsort(-iou, kind="stable"):
                if iou[j] < threshold:
                    break
                at = mine["index"][j]
                if not taken[level, at]:
                    taken[level, at] = hits[level, i] = True
                    break
    return [_area(row.tolist(), len(truth)) for row in hits]


def list_loop(truth: pd.DataFrame, found: pd.DataFrame) -> list[float]:
    """The same, with nothing but lists and numbers of Python."""
    by_video: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for i, (video, start, end) in enumerate(zip(truth["video_id"], truth["start"], truth["end"], strict=True)):
        by_video[video].append((start, end, i))
    columns = (found[name].tolist() for name in ("video_id", "start", "end", "score"))
    ranked = sorted(zip(*columns, strict=True), key=lambda row: -row[3])
    hits: list[list[bool]] = [[] for _ in BALLET_TIOU]
    taken: list[set[int]] = [set() for _ in BALLET_TIOU]
    for video, start, end, _ in ranked:
        rivals = []
        for s, e, i in by_video.get(video, ()):
            overlap = max(0.0, min(end, e) - max(start, s))
            rivals.append((-overlap / ((e - s) + (end - start) - overlap), i))
        rivals.sort()
        for level, threshold in enumerate(BALLET_TIOU):
            free = next((i for iou, i in rivals if -iou >= threshold and i not in taken[level]), None)
            hits[level].append(free is not None)
            if free is not None:
                taken[level].add(free)
    return [_area(row, len(truth)) for row in hits]


def _area(hits: list[bool], positives: int) -> float:
    right, points = 0, []
    for n, hit in enumerate(hits, 1):
        right += hit
        points.append((right / positives, right / n))
    area = best = 0.0
    for (recall, precision), (before, _) in zip(reversed(points), reversed([(0.0, 0.0), *points[:-1]]), strict=True):
        best = max(best, precision)
        area += (recall - before) * best
    return area


def plain_nms(segments: np.ndarray, scores: np.ndarray, method: Method, limit: int) -> list[int]:
    """Soft-NMS (sigma 0.5) or hard NMS (tIoU 0.5), one candidate after the other; one below 0.001 is dropped."""
    left = [[s, e, p, i] for i, ((s, e), p) in enumerate(zip(segments.tolist(), scores.tolist(), strict=True))]
    picked = []
    while left and len(picked) < limit:
        best = max(left, key=lambda row: row[2])
        picked.append(best[3])
        kept = []
        for row in left:
            if row is best:
                continue
            overlap = max(0.0, min(row[1], best[1]) - max(row[0], best[0]))
            iou = overlap / ((row[1] - row[0] + 1e-6) + (best[1] - best[0] + 1e-6) - overlap)
            if method == "gaussian":
                row[2] *= math.exp(-iou * iou / 0.5)
            elif iou >= 0.5:
                continue
            if row[2] >= 0.001:
                kept.append(row)
        left = kept
    return picked


def seconds(call: Callable[..., Any], *args: Any, times: int = 1, **options: Any) -> tuple[float, Any]:
    """CPU seconds of the quickest of some calls, and what it gave."""
    best = math.inf
    for _ in range(times):
        started = time.process_time()
        result = call(*args, **options)
        best = min(best, time.process_time() - started)
    return best, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10_000)
    videos = parser.parse_args().videos
    truth, found = draw(videos)
    one = "c0"
    mine = truth[truth["label"] == one], found[found["label"] == one]
    share = len(mine[1]) / len(found)
    fast, ap = seconds(average_precision, truth, found, np.array(BALLET_TIOU), times=3)
    whole, _ = seconds(evaluate_detections, truth, found, times=3)
    print(f"{videos:,} videos, {len(truth):,} segments, {len(found):,} detections, tIoU {BALLET_TIOU}\n")
    print("| mAP | CPU s | over `average_precision` | over `evaluate_detections` |\n| --- | ---: | ---: | ---: |")
    print(f"| `average_precision` | {fast:.2f} | 1 | |")
    print(f"| `evaluate_detections` (mAP, AR and its area) | {whole:.2f} | | 1 |")
    for name, loop in (("rows of data frames", data_frame_loop), ("lists of Python", list_loop)):
        spent, expected = seconds(loop, *mine)
        if not np.allclose(ap[one], expected, atol=1e-12):
            raise SystemExit(f"AP of {one} differs: {ap[one]} against {expected}")
        spent /= share
        print(f"| plain loop, {name} ({share:.1%} timed) | {spent:.1f} | {spent / fast:.1f} | {spent / whole:.1f} |")

    rng = np.random.default_rng(0)
    start = rng.uniform(0, 600, 10_000)
    segments = np.stack([start, start + rng.uniform(0.3, 1.2, 10_000)], axis=1)
    scores = rng.uniform(0, 1, 10_000)
    print("\n10,000 candidates of one class in ten minutes\n")
    print("| NMS | picks | CPU s | plain loop, s | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    cases: list[tuple[Method, int]] = [("gaussian", 200), ("hard", 200), ("gaussian", 2_000), ("hard", 10_000)]
    for method, limit in cases:
        options = {"method": method, "min_score": 0.001, "max_segments": limit}
        spent, (_, _, picked) = seconds(soft_nms, segments, scores, times=3, **options)
        plain, expected_picks = seconds(plain_nms, segments, scores, method, limit)
        if picked.tolist() != expected_picks:
            raise SystemExit(f"{method} NMS picks other segments than the plain loop")
        print(f"| {method} | {len(picked):,} | {spent:.3f} | {plain:.2f} | {plain / spent:.0f} |")


if __name__ == "__main__":
    main()
