"""Losses of the two recipes. Sums, divided by a count the caller makes global, so that workers agree."""

import torch
import torch.nn.functional as F
from torch import Tensor

from balletal.tal.models import Outputs
from balletal.tal.targets import Targets


def focal(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss of each element (Lin et al. 2017): same shape as ``logits``."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    right = p * targets + (1 - p) * (1 - targets)
    return (alpha * targets + (1 - alpha) * (1 - targets)) * (1 - right) ** gamma * cross_entropy


def tiou_1d(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """tIoU and squared normalised distance of the middles, for segments that share a point.

    Args:
        predicted, target: (N, 2) distances from that point to start and end, not negative.

    Returns:
        (N,) tIoU and (N,) penalty of DIoU (Zheng et al. 2020), both finite even for empty segments.
    """
    intersection = torch.minimum(predicted, target).sum(-1)
    union = predicted.sum(-1) + target.sum(-1) - intersection
    enclosing = torch.maximum(predicted, target).sum(-1)
    eps = torch.finfo(predicted.dtype).eps
    shift = ((predicted[:, 1] - predicted[:, 0]) - (target[:, 1] - target[:, 0])) / 2
    return intersection / union.clamp(min=eps), (shift / enclosing.clamp(min=eps)) ** 2


def localize_loss(
    outputs: Outputs,
    targets: Targets,
    *,
    alpha: float,
    gamma: float,
    quality_weight: float,
    boundary_weight: float,
    tag_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Focal loss on every real sub-step; DIoU, the quality score and tags on positive ones alone.

    Returns:
        sums ``class``, ``boundary``, ``quality``, ``tag`` and their weighted ``total``; zero positives give zeros,
        never NaN.
    """
    real, positive = outputs.mask, targets.positive
    classes = focal(outputs.classes[real], targets.classes[real], alpha=alpha, gamma=gamma).sum()
    iou, penalty = tiou_1d(outputs.boundaries[positive], targets.boundaries[positive])
    boundary = (1 - iou + penalty).sum()
    quality = F.binary_cross_entropy_with_logits(outputs.quality[positive], iou.detach().clamp(0, 1), reduction="sum")
    tag = F.binary_cross_entropy_with_logits(outputs.tags[positive], targets.tags[positive], reduction="sum")
    total = classes + boundary_weight * boundary + quality_weight * quality + tag_weight * tag
    return {"class": classes, "boundary": boundary, "quality": quality, "tag": tag, "total": total}


def paper_loss(outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
    """As published: squared error of the boundaries plus cross-entropy, background ignored; sums over positives."""
    positive = targets.positive
    classes = F.cross_entropy(outputs.classes[positive], targets.classes[positive].argmax(-1), reduction="sum")
    boundary = F.mse_loss(outputs.boundaries[positive], targets.boundaries[positive], reduction="none").mean(-1).sum()
    return {"class": classes, "boundary": boundary, "quality": torch.zeros_like(classes), "total": classes + boundary}
