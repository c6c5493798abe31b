"""How good detections are: mAP and AR, frame-wise scores, boundary errors."""

from balletal.metrics.boundaries import boundary_errors
from balletal.metrics.detection import evaluate_detections
from balletal.metrics.frames import edit_score, f1_overlap, frame_accuracy, frame_labels, frame_metrics

__all__ = [
    "boundary_errors",
    "edit_score",
    "evaluate_detections",
    "f1_overlap",
    "frame_accuracy",
    "frame_labels",
    "frame_metrics",
]
