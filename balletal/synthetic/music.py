"""Music for a video's sound track: a small waltz or march of piano-like tones, the same for the same random numbers."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sound = Literal["waltz", "march", "silence"]
RATE = 44100  # samples a second

_BEATS = {"waltz": 3, "march": 2}
_TEMPO = {"waltz": (130.0, 180.0), "march": (100.0, 126.0)}  # beats a minute
_SCALE = np.array([0, 2, 4, 5, 7, 9, 11])  # major, semitones above the key note
_CHORDS = (0, 3, 4, 0, 5, 3, 4, 4)  # their roots, steps of the scale; a bar each


def compose(random: np.random.Generator, seconds: float, kind: Sound) -> NDArray[np.float32]:
    """One voice of tune over bass and chords.

    Returns:
        (ceil(seconds * RATE),) float32 in [-1, 1]; zeros for ``silence``.
    """
    samples = np.zeros(int(np.ceil(seconds * RATE)), np.float32)
    if kind == "silence":
        return samples
    key = int(random.integers(55, 64))  # MIDI numbers: the bass is an octave below, the tune one above
    beat = 60 / random.uniform(*_TEMPO[kind])
    step = 4  # of the tune, in steps of the scale
    for number in range(int(seconds / beat) + 1):
        bar, place = divmod(number, _BEATS[kind])
        root, time = _CHORDS[bar % len(_CHORDS)], number * beat
        if place == 0:
            _strike(samples, time, _note(key, root) - 12, 3 * beat, 0.3)
        else:
            for third in (0, 2, 4):
                _strike(samples, time, _note(key, root + third), beat, 0.1)
        if random.random() < 0.8:
            step = int(np.clip(step + random.integers(-2, 3), 0, 10))
            _strike(samples, time + random.uniform(0, 0.012), _note(key, step) + 12, 2 * beat, 0.22)
    loudest = float(np.abs(samples).max(initial=0))
    return samples * np.float32(0.7 / loudest) if loudest else samples


def _note(key: int, step: int) -> int:
    """The MIDI number of a step of the scale."""
    return key + 12 * (step // len(_SCALE)) + int(_SCALE[step % len(_SCALE)])


def _strike(samples: NDArray[np.float32], time: float, note: int, seconds: float, loudness: float) -> None:
    """Add a struck string: overtones that die away the faster the higher they are."""
    start = round(time * RATE)
    t = np.arange(min(round(seconds * RATE), len(samples) - start), dtype=np.float64) / RATE
    frequency = 440 * 2 ** ((note - 69) / 12)
    tone = sum(np.sin(2 * np.pi * k * frequency * t) * np.exp(-t * (2 + k)) / k**1.5 for k in range(1, 6))
    edges = np.minimum(1, t / 0.004) * np.minimum(1, (seconds - t) / 0.02)  # no clicks
    samples[start : start + len(t)] += (loudness * edges * tone).astype(np.float32)
