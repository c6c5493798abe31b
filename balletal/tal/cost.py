"""What a localizer costs: its size, the arithmetic of a minute of video, and the time that one takes."""

import statistics
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.tal.decoding import run_model
from balletal.tal.localizer import Localizer
from balletal.tal.sequences import on_clip_grid
from balletal.video.clips import clip_times

MINUTE_S = 60.0


def measure_cost(localizer: Localizer, video: VideoFeatures, repeats: int = 5) -> dict[str, Any]:
    """Size and speed of a localizer on a minute of features; the backbone that makes features is not in it.

    Args:
        video: features to repeat until there is a minute of them: real ones, since noise leaves NMS nothing to do.
        repeats: the latency is the median of so many calls, after one that is not counted.

    Returns:
        JSON-able: ``parameters``; ``flops_per_minute`` of the model's forward pass over a minute at once (a
        multiplication and an addition are two); ``latency_s`` from stored features to detections; ``device``,
        ``threads`` that it was measured with.

    Raises:
        InputError: ``video`` has no features.
    """
    minute = _minute(localizer.spec, video)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        localizer.localize(minute, duration=MINUTE_S)
        times.append(time.perf_counter() - started)
    return {
        "parameters": sum(p.numel() for p in localizer.model.parameters()),
        "flops_per_minute": _flops(localizer, minute),
        "latency_s": round(statistics.median(times[1:]), 4),
        "device": next(localizer.model.parameters()).device.type,
        "threads": torch.get_num_threads(),
    }


def _minute(spec: FeatureSpec, video: VideoFeatures) -> VideoFeatures:
    if len(video.features) == 0:
        raise InputError(f"video {video.video_id}", expected="features to measure the cost with", found="none")
    n = max(1, round(MINUTE_S / spec.stride_s))
    return VideoFeatures(video.video_id, *clip_times(0, n, spec), np.resize(video.features, (n, spec.dim)))


def _flops(localizer: Localizer, video: VideoFeatures) -> int:
    device = next(localizer.model.parameters()).device
    # The counter does not know the fused kernels of recurrent layers and attention; without them it sees their parts.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with (
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            run_model(localizer.model, on_clip_grid(video, localizer.projection), device)
    return int(counter.get_total_flops())
