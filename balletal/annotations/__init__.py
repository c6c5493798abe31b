"""Annotations of ballet steps: reading and writing files, what is wrong with them, splits."""

from balletal.annotations.activitynet import write_activitynet, write_results
from balletal.annotations.clean import cleaning_report, closest_label_set, usable_segments
from balletal.annotations.formats import read_annotations, write_csv, write_webvtt
from balletal.annotations.splits import (
    By,
    Split,
    cross_validation,
    load_split,
    make_split,
    save_split,
    split_by_variation,
    split_by_video,
)
from balletal.annotations.table import Annotations, Problem, video_table
from balletal.annotations.tags import step_tags
from balletal.annotations.via import write_via_csv

__all__ = [
    "Annotations",
    "By",
    "Problem",
    "Split",
    "cleaning_report",
    "closest_label_set",
    "cross_validation",
    "load_split",
    "make_split",
    "read_annotations",
    "save_split",
    "split_by_variation",
    "split_by_video",
    "step_tags",
    "usable_segments",
    "video_table",
    "write_activitynet",
    "write_csv",
    "write_results",
    "write_via_csv",
    "write_webvtt",
]
