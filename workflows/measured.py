"""What a run leaves behind, whatever its model came from: a bundle that was measured on the validation videos."""

from dataclasses import replace
from typing import Any

from balletal import files
from balletal.annotations import load_split, read_annotations, save_split, write_activitynet
from balletal.features.store import FeatureStore
from balletal.metrics.calibration import detection_temperature
from balletal.metrics.localizer import evaluate_localizer
from balletal.tal.localizer import Localizer, localize_videos
from workflows.tables import write_detections


def write_run(
    localizer: Localizer, store: FeatureStore, prepared: str, out: str, *, facts: dict[str, Any], data: str = ""
) -> dict[str, Any]:
    """Calibrate a localizer and measure it, and write its bundle, detections and, last, `metrics.json`.

    The temperature of its scores is fitted on the validation videos too: how well they are calibrated elsewhere is for
    other videos to say. It changes no mAP but by ties.

    Args:
        prepared: folder that :func:`workflows.train.prepare` wrote.
        out: the run's folder.
        facts: of the training, which go into the metrics: ``model``, ``recipe``, ``seed``, ``losses`` ...
        data: a line on what it learnt from, with its licence.

    Returns:
        what `metrics.json` holds.
    """
    split = load_split(files.join(prepared, "split.json"))
    ground_truth = read_annotations(files.join(prepared, "ground_truth.json"), localizer.labels)
    durations = ground_truth.durations
    if localizer.model.located:  # the paper's scores stay as published
        plain = localize_videos(localizer.with_temperature(1.0), store.iter_videos(list(durations)), durations)
        localizer = localizer.with_temperature(detection_temperature(ground_truth.segments, plain))
    detections, measured = evaluate_localizer(localizer, store.iter_videos(list(durations)), ground_truth)
    metrics = {
        "name": localizer.name,
        **facts,
        "subset": "validation",
        "split": {"by": split.by, "seed": split.seed},
        "videos": len(durations),
        **measured,
        "temperature": localizer.recipe.decode.temperature,
        "parameters": sum(p.numel() for p in localizer.model.parameters()),
        "data": data,
    }
    about = {
        "data": data,
        **localizer.about,
        "split": metrics["split"],
        "validation": {
            "average_map": measured["detection"]["average_map"],
            "foreground_accuracy": measured["frames"]["foreground_accuracy"],
        },
    }
    localizer = replace(localizer, about=about)
    localizer.save(files.join(out, "bundle"))
    write_detections(out, detections, localizer)
    if out != prepared:
        write_activitynet(files.join(out, "ground_truth.json"), ground_truth, localizer.labels)
        save_split(files.join(out, "split.json"), split)
    files.write_json(files.join(out, "metrics.json"), metrics)
    return metrics
