"""The network's part of the extraction benchmark: speed against plain public practice, precision."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from balletal.backbones.i3d import InceptionI3D, MaxPool3d, Unit3D
from balletal.backbones.weights import load_state
from balletal.features.extractor import Extractor, keep_freed_memory, spec_for
from balletal.video.decode import read_frames
from balletal.video.probe import VideoInfo, probe
from tests.benchmarks.extraction_common import Row, load

FPS, WINDOW, STRIDE = 25, 16, 4
WEIGHTS = "i3d-rgb-kinetics400"


def plain_model(device: str) -> InceptionI3D:
    """I3D as its public PyTorch code runs it: every layer pads, convolves, normalises and rectifies by itself."""
    model = InceptionI3D(3, num_classes=0)
    state = load_state(WEIGHTS)
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith("logits.")}, strict=False)
    for module in model.modules():
        if isinstance(module, Unit3D):
            module.forward = partial(_plain_unit, module)  # type: ignore[method-assign]
        elif isinstance(module, MaxPool3d):
            module.forward = partial(_plain_pool, module)  # type: ignore[method-assign]
    return model.eval().to(device)


def _padded(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    pad: list[int] = []
    for n, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - (s if n % s == 0 else n % s), 0)
        pad = [total // 2, total - total // 2, *pad]
    return F.pad(x, pad)


def _plain_unit(unit: Unit3D, x: Tensor) -> Tensor:
    x = unit.conv3d(_padded(x, unit.kernel, unit.stride))
    assert unit.bn is not None
    return F.relu(unit.bn(x))


def _plain_pool(pool: MaxPool3d, x: Tensor) -> Tensor:
    return F.max_pool3d(_padded(x, pool.kernel, pool.stride), pool.kernel, pool.stride)


def plain_features(model: InceptionI3D, info: VideoInfo, device: str) -> NDArray[np.float32]:
    """(clips, 1024): the whole video decoded and made float first, then 16 frames every 4, one clip at a time."""
    pixels = read_frames(info.uri, FPS, 0, round(info.duration * FPS)).pixels
    video = torch.from_numpy(pixels).float().div(127.5).sub(1).permute(3, 0, 1, 2)[None]
    made = []
    with torch.no_grad():
        for start in range(0, len(pixels) - WINDOW + 1, STRIDE):
            clip = video[:, :, start : start + WINDOW].contiguous().to(device)
            made.append(model.features(clip).cpu())
    return torch.cat(made).numpy()


def speed(videos: list[Path], short: list[Path], device: str, repeats: int) -> list[Row]:
    """Video-seconds a second, each way in turn so that all see the same machine.

    Args:
        videos: to run on.
        short: the same ones, shorter, for the ways that take long; a clip costs them the same wherever it lies.
    """
    keep_freed_memory()  # as the job does; the plain way profits as well
    plain = plain_model(device)
    long_infos, short_infos = [probe(str(v)) for v in videos], [probe(str(v)) for v in short]
    extractors = {
        "(b) windowed 16/4 bfloat16": _extractor(device),
        "(c) dense 16/4 bfloat16": _extractor(device, mode="dense"),
        "windowed 16/4 float32": _extractor(device, dtype="float32"),
        "dense 16/4 float32": _extractor(device, mode="dense", dtype="float32"),
        "dense 16/8 bfloat16": _extractor(device, mode="dense", stride=8),
        "dense 16/2 bfloat16": _extractor(device, mode="dense", stride=2),
    }
    name_a, name_b, name_c = "(a) plain 16/4 float32", *list(extractors)[:2]
    short_ones = {name_a} if device != "cpu" else {name_a, "windowed 16/4 float32"}

    def whole(extractor: Extractor, info: VideoInfo) -> float:
        return len(extractor.extract_video(info).features) * extractor.spec.stride_s

    ways: dict[str, Callable[[VideoInfo], float]] = {
        name_a: lambda info: len(plain_features(plain, info, device)) * STRIDE / FPS,
        **{name: partial(whole, extractor) for name, extractor in extractors.items()},
    }
    for name, way in ways.items():  # kernels are chosen and memory is taken at the first pass
        way(replace(long_infos[0], duration=(1.0 if device == "cpu" or name == name_a else long_infos[0].duration)))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats):
        for info, short_info in zip(long_infos, short_infos, strict=True):
            for name, way in ways.items():
                if number and name not in (name_a, name_b, name_c):
                    continue  # the others are for orientation
                start = time.perf_counter()
                made = way(short_info if name in short_ones else info)
                rates[name].append(made / (time.perf_counter() - start))
    rows = []
    for name, found in rates.items():
        note = f"{min(found):.3g} to {max(found):.3g} in {len(found)} runs"
        rows.append(Row("speed", name, median(found), "video-s/s", note))
    for name, wanted in ((name_b, 8), (name_c, 25)):
        each = [ours / theirs for ours, theirs in zip(rates[name], rates[name_a], strict=True)]
        note = f"wanted: {wanted}; {min(each):.1f} to {max(each):.1f}; {load()}"
        rows.append(Row("speed", f"{name[:3]}/(a)", median(rates[name]) / median(rates[name_a]), "x", note))
    pixels = read_frames(short_infos[0].uri, FPS, 0, 3 * FPS).pixels
    own = extractors["windowed 16/4 float32"].extract(pixels[:32])
    theirs = plain_features(plain, replace(short_infos[0], duration=32 / FPS), device)
    off = np.abs(own - theirs).max() / np.abs(theirs).max()
    rows.append(Row("speed", "(a) against ours in float32", float(off), "of the maximum", "the same network"))
    return rows + _arithmetic(extractors, long_infos[0], device)


def _extractor(device: str, **spec: Any) -> Extractor:
    return Extractor(
        spec_for(WEIGHTS, window=WINDOW, fps=FPS, **{"stride": STRIDE, "mode": "windowed", "crop": "center"} | spec),
        device=device,
    )


def _arithmetic(extractors: dict[str, Extractor], info: VideoInfo, device: str) -> list[Row]:
    """Clips a second with frames in memory, and the arithmetic that is, against the device's rate in a matrix product.

    The arithmetic is counted from the shapes. Ways that do less for the same features are given what they do.
    """
    most = 1500 if device != "cpu" else 96
    pixels = read_frames(info.uri, FPS, 0, min(most, round(info.duration * FPS))).pixels
    pixels = np.concatenate([pixels] * -(-most // len(pixels)))[:most]
    rates, rows = {name: _matmul_rate(name, device) for name in ("float32", "bfloat16")}, []
    for name, rate in rates.items():
        rows.append(Row("speed", f"matrix product, {name}", rate / 1e12, "TFLOP/s", "what the device does at best"))
    for name, extractor in extractors.items():
        of = extractor.spec
        given = pixels if of.mode == "dense" or device != "cpu" else pixels[:40]
        per_second = []
        for _ in range(4):
            start = time.perf_counter()
            clips = len(extractor.extract(given))
            per_second.append(clips / (time.perf_counter() - start))
        flop = _flop(of.mode, of.stride, len(given)) / (1 if of.mode == "windowed" else clips)
        best = max(per_second[1:])
        note = f"{flop / 1e9:.1f} GFLOP a clip, {best * flop / 1e12:.2f} TFLOP/s, "
        note += f"{best * flop / rates[of.dtype]:.0%} of a matrix product; batch {extractor.batch}"
        rows.append(
            Row("speed", f"model alone, {name.removeprefix('(b) ').removeprefix('(c) ')}", best, "clips/s", note)
        )
    return rows


def _flop(mode: str, stride: int, frames: int) -> float:
    """Floating-point operations of a window, or of a dense run over ``frames``; a multiplication and addition are 2."""
    with torch.device("meta"):
        model = InceptionI3D(3, num_classes=0)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            if mode == "dense":
                model.dense_maps(torch.empty(1, 3, -(-frames // 8) * 8, 224, 224), min(stride, 8))
            else:
                model.features(torch.empty(1, 3, WINDOW, 224, 224))
    return float(counter.get_total_flops())


def _matmul_rate(dtype: str, device: str) -> float:
    """Floating-point operations a second of a large matrix product, the best of ten."""
    n = 8192 if device != "cpu" else 2048
    a = torch.randn(n, n, device=device).to(getattr(torch, dtype))
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(1 if device == "cpu" else 10):
            b = a @ a
        b[0, 0].item()
        best = max(best, (1 if device == "cpu" else 10) * 2 * n**3 / (time.perf_counter() - start))
    return best


def compiled(short: list[Path], device: str, repeats: int) -> list[Row]:
    """Windowed, with `torch.compile` and without, in turn."""
    spec = spec_for(WEIGHTS, window=WINDOW, stride=STRIDE, fps=FPS, mode="windowed", crop="center")
    pixels = read_frames(str(short[0]), FPS, 0, 40 if device == "cpu" else 1500).pixels
    without = Extractor(spec, device=device, compiled=False)
    start = time.perf_counter()
    with_it = Extractor(spec, device=device, compiled=True)
    took = time.perf_counter() - start
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(repeats + 1):
        for which, extractor in ((False, without), (True, with_it)):
            start = time.perf_counter()
            made = len(extractor.extract(pixels))
            if number:
                found[which].append(made / (time.perf_counter() - start))
    ratio = median(found[True]) / median(found[False])
    note = f"{median(found[True]):.2f} against {median(found[False]):.2f} clips/s; made in {took:.0f} s; {load()}"
    return [Row("compile", "torch.compile / without, windowed bfloat16", ratio, "x", note)]


def precision(videos: list[Path], device: str) -> list[Row]:
    """Cosine of each feature in half precision with the same in float32."""
    clips = [read_frames(str(video), FPS, 0, round(probe(str(video)).duration * FPS)).pixels for video in videos]
    rows = []
    for mode in ("windowed", "dense"):
        reference, seconds = _all(_extractor(device, mode=mode, dtype="float32"), clips, None)
        for dtype in ("bfloat16", "float16"):
            limit = 3 * seconds if dtype == "float16" else None
            made, took = _all(_extractor(device, mode=mode, dtype=dtype), clips, limit)
            what = f"{mode}, {dtype} against float32"
            note = f"{took / seconds:.2f} of float32's time; {len(reference)} features"
            if not len(made):
                rows.append(Row("precision", what, None, "", "takes more than 3 times float32's time here"))
                continue
            norms = np.linalg.norm(made, axis=1) * np.linalg.norm(reference, axis=1)
            cosine = (made * reference).sum(1) / norms
            rows.append(
                Row("precision", f"{what}: cosine, median", float(np.median(cosine)), "", "wanted: 0.999; " + note)
            )
            rows.append(Row("precision", f"{what}: cosine, worst", float(cosine.min()), "", "wanted: 0.99"))
    return rows


def _all(
    extractor: Extractor, clips: list[NDArray[np.uint8]], limit_s: float | None
) -> tuple[NDArray[np.float64], float]:
    """Features of all videos, and the seconds; none when a first clip says that they will take beyond the limit."""
    if limit_s is not None:
        extractor.extract(clips[0][:WINDOW])
        start = time.perf_counter()
        extractor.extract(clips[0][:WINDOW])
        share = sum(map(len, clips)) / (STRIDE if extractor.spec.mode == "windowed" else WINDOW)
        if (time.perf_counter() - start) * share > limit_s:
            return np.empty((0, 0)), limit_s
    start = time.perf_counter()
    made = [extractor.extract(pixels) for pixels in clips]
    return np.concatenate(made).astype(np.float64), time.perf_counter() - start
