"""Speed and error of OpenCV's optical flow on known motion: `python -m tests.benchmarks.flow`.

One thread, 224 x 224 pixels. Each row: frames a second; mean end-point error in pixels on the figure and on the ground,
for each motion and over all of them. The last column is the error on the figure once the flow is clamped and quantised.
"""

import time
from collections.abc import Callable

import cv2
import numpy as np

from balletal.backbones import flow as module
from tests.balletal.backbones.moving import scene

SIZE = 224
NOISE = 3.0
# Motion of the figure and of the ground, pixels a frame, and the figure's turn, radians a frame. A dancer who
# fills half of the picture's height is about 1.7 m in 112 pixels: 4 m/s at 25 frames a second are 10 pixels a frame.
MOTIONS = {
    "slow": ((2, -1), (0, 0), 0.05),
    "walk": ((6, -3), (0, 0), 0.1),
    "leap": ((12, 4), (0, 0), 0.1),
    "fast": ((16, 0), (0, 0), 0.0),
    "pan": ((3, 2), (-6, 0), 0.1),
    "meet": ((-5, -5), (8, 1), 0.0),
}


def _dis(preset: int) -> module._Estimate:
    search = cv2.DISOpticalFlow.create(preset)
    return lambda first, second: search.calc(first, second, None)


def _rate(run: Callable[[], object], seconds: float = 2.0) -> float:
    """Runs a second, the best of five rounds: what else the machine does only slows it."""
    run()
    best = 0.0
    for _ in range(5):
        count, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds / 5:
            run()
            count += 1
        best = max(best, count / passed)
    return best


def main() -> None:
    cv2.setNumThreads(1)
    methods = {
        "DIS ULTRAFAST": _dis(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
        "DIS FAST": _dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
        "DIS MEDIUM (dis)": _dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
        "Farneback (farneback)": module._farneback,
    }
    print(f"opencv {cv2.__version__}, {SIZE} x {SIZE}, one thread; error in pixels: figure / ground")
    print(f"{'':22}{'frames/s':>9}" + "".join(f"{name:>13}" for name in MOTIONS) + f"{'all':>13}{'quantised':>11}")
    for name, estimate in methods.items():
        cells, quantised = [], []
        for figure, ground, turn in MOTIONS.values():
            frames, truth, inside = scene(SIZE, figure, ground, turn=turn, noise=NOISE)
            grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
            flow = estimate(*grey)
            error = np.linalg.norm(flow - truth, axis=-1)
            cells.append((error[inside].mean(), error[~inside].mean()))
            kept = np.minimum(np.rint(128 + 6.375 * np.clip(flow, -20, 20)), 255)
            quantised.append(np.linalg.norm((kept - 128) / 6.375 - truth, axis=-1)[inside].mean())
        row = "".join(f"{f'{a:.2f} / {b:.2f}':>13}" for a, b in (*cells, np.mean(cells, axis=0)))
        print(f"{name:22}{_rate(lambda: estimate(*grey)):>9.0f}{row}{np.mean(quantised):>11.2f}")  # noqa: B023 (used at once)
    frames = np.concatenate([scene(SIZE, *MOTIONS["walk"][:2], noise=NOISE)[0]] * 8)
    for method in ("dis", "farneback"):
        rate = (len(frames) - 1) * _rate(lambda: module.optical_flow(frames, method))  # noqa: B023 (used at once)
        print(f"optical_flow({method}), 16 frames a call: {rate:.0f} flows/s")


if __name__ == "__main__":
    main()
