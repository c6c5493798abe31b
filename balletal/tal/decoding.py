"""From a model's outputs to detections in seconds."""

import numpy as np
import torch
from numpy.typing import NDArray

from balletal.tal.config import DecodeConfig
from balletal.tal.models import Outputs
from balletal.tal.nms import soft_nms
from balletal.tal.sequences import Grid


def candidates(
    outputs: Outputs, b: int, grid: Grid, duration: float, config: DecodeConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The best (sub-step, class) pairs of video ``b`` as segments, before NMS.

    Returns:
        segments (N, 2) seconds within [0, duration], scores (N,) in [0, 1], class ids (N,); best first.
    """
    real = outputs.mask[b]
    centers = (grid.offset + outputs.at[real].cpu().numpy() * grid.step)[:, None]
    logits = outputs.classes[b, real].double()
    boundaries = outputs.boundaries[b, real].double().cpu().numpy()
    if outputs.quality.numel():
        # The geometric mean of "this class" and "these boundaries": both must hold.
        probabilities = (logits.sigmoid() * outputs.quality[b, real].double().sigmoid()[:, None]).sqrt()
        segments = centers + boundaries * grid.step * np.array([-1.0, 1.0])
    else:
        probabilities = logits.softmax(-1)
        segments = boundaries * duration
    flat = probabilities.cpu().numpy().reshape(-1)
    order = np.argsort(-flat, kind="stable")[: config.candidates]
    order = order[flat[order] > config.min_score]
    step, label = np.divmod(order, logits.shape[1])
    segments = segments[step].clip(0.0, duration)
    longer = segments[:, 1] > segments[:, 0]
    return segments[longer], flat[order][longer], label[longer]


def decode(
    outputs: Outputs, b: int, grid: Grid, duration: float, config: DecodeConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Detections of video ``b``: candidates, then NMS within each class.

    Returns:
        segments (N, 2) seconds, scores (N,), class ids (N,); best first, at most ``config.max_segments``.
    """
    segments, scores, labels = candidates(outputs, b, grid, duration, config)
    kept: list[tuple[NDArray, NDArray, NDArray]] = []
    for label in np.unique(labels):
        mine = labels == label
        s, p, _ = soft_nms(
            segments[mine],
            scores[mine],
            method=config.nms,
            sigma=config.sigma,
            iou_threshold=config.iou_threshold,
            min_score=config.min_score,
            max_segments=config.max_segments,
        )
        kept.append((s, p, np.full(len(p), label)))
    if not kept:
        return segments, scores, labels
    all_segments, all_scores, all_labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    order = np.argsort(-all_scores, kind="stable")[: config.max_segments]
    return all_segments[order], all_scores[order], all_labels[order]


def class_scores(
    outputs: Outputs, b: int, grid: Grid, duration: float, config: DecodeConfig, times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How sure the model is of each class at some moments of video ``b``: (len(times), C) in [0, 1].

    Where boundaries are distances, a class scores what the best candidate that covers the moment scores: only the
    middle of a step is trained to know its class. Where they are fractions (``paper``), it is the class head's
    probability.

    Args:
        times: ascending seconds.
    """
    if not outputs.quality.numel():
        probabilities = (outputs.classes[b].double().softmax(-1) * outputs.mask[b][:, None]).cpu().numpy()
        step = np.floor((times - grid.offset) / grid.step).astype(np.int64)
        return probabilities[step.clip(0, len(probabilities) - 1)]
    segments, scores, labels = candidates(outputs, b, grid, duration, config)
    first, last = np.searchsorted(times, segments[:, 0]), np.searchsorted(times, segments[:, 1])
    covered = np.zeros((len(times), outputs.classes.shape[-1]))
    for i in range(len(scores) - 1, -1, -1):  # the best last, so that it stays
        covered[first[i] : last[i], labels[i]] = scores[i]
    return covered


@torch.no_grad()
def run_model(model: torch.nn.Module, features: NDArray[np.float32], device: torch.device) -> Outputs:
    """Outputs of one video: features (T, K) -> a batch of one."""
    x = torch.from_numpy(np.ascontiguousarray(features)).to(device)[None]
    outputs: Outputs = model(x, torch.ones(x.shape[:2], dtype=torch.bool, device=device))
    return outputs
