"""How good detections are: mAP and AR, errors by kind, label, duration and score, frame-wise scores, bounds."""

from balletal.metrics.boundaries import boundary_errors
from balletal.metrics.calibration import calibration, detection_temperature, fit_temperature, reliability
from balletal.metrics.confusion import confusion_matrix
from balletal.metrics.detection import evaluate_detections
from balletal.metrics.diagnosis import diagnose_detections
from balletal.metrics.durations import duration_table
from balletal.metrics.frames import edit_score, f1_overlap, frame_accuracy, frame_labels, frame_metrics
from balletal.metrics.operating import best_f1
from balletal.metrics.oracle import oracle_instances, oracle_runs
from balletal.metrics.tags import tag_metrics

__all__ = [
    "best_f1",
    "boundary_errors",
    "calibration",
    "confusion_matrix",
    "detection_temperature",
    "diagnose_detections",
    "duration_table",
    "edit_score",
    "evaluate_detections",
    "f1_overlap",
    "fit_temperature",
    "frame_accuracy",
    "frame_labels",
    "frame_metrics",
    "oracle_instances",
    "oracle_runs",
    "reliability",
    "tag_metrics",
]
