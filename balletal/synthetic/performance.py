"""A choreography: phrases of steps with what lies between them, drawn at random, and where in time each step is."""

import copy
from dataclasses import dataclass

import numpy as np

from balletal.synthetic import fillers
from balletal.synthetic.body import Style, random_body
from balletal.synthetic.dance import Dance, Segment
from balletal.synthetic.motion import Motion
from balletal.synthetic.presets import Preset
from balletal.synthetic.repertoire import STEPS, Step

_TRIES = 4
_ENDING = 60.0  # seconds; no phrase lasts that long


@dataclass(frozen=True)
class Performance:
    """What is danced in a video.

    Attributes:
        dancers: the first one is annotated; others walk, stand and move their arms.
        segments: the steps, by start; "Backwards" is a tag that runs beside them.
    """

    dancers: tuple[Motion, ...]
    segments: tuple[Segment, ...]


def perform(random: np.random.Generator, seconds: float, preset: Preset) -> Performance:
    """A choreography of ``seconds``.

    Every step of :data:`STEPS` that the dancer's style allows is equally likely to begin a phrase; near the end, where
    long phrases do not fit, short ones are likelier.
    """
    main, other = random.spawn(2)
    style: Style = "woman" if main.random() < 0.5 else "man"
    motion, segments = _solo(main, style, seconds, preset)
    dancers = [motion]
    if other.random() < preset.company:
        dancers.append(_bystander(other, seconds, preset))
    return Performance(tuple(dancers), tuple(sorted(segments, key=lambda s: (s.start, s.end, s.label))))


def _solo(random: np.random.Generator, style: Style, seconds: float, preset: Preset) -> tuple[Motion, list[Segment]]:
    reach_x, reach_z = preset.reach
    place = (float(random.uniform(-0.6, 0.6)) * reach_x, float(random.uniform(-0.6, 0.6)) * reach_z)
    dance = Dance(random_body(random, style), place, _front(random, preset)[0])
    _pause(dance, random, preset, first=True)
    failed = 0
    while failed < _TRIES:
        # A phrase that may run past the end is tried on a copy; before, copies of a long dance would take ever longer.
        attempt = copy.deepcopy(dance) if seconds - dance.time < _ENDING else dance
        _phrase(attempt, random, style, preset)
        if attempt.time > seconds:  # no step is cut off by the end of the video
            failed += 1
            continue
        dance, failed = attempt, 0
        _pause(dance, random, preset)
    if dance.time < seconds - 0.5:
        fillers.port_de_bras(dance, seconds - dance.time, random)
    return dance.motion(seconds), dance.segments


def _phrase(dance: Dance, random: np.random.Generator, style: Style, preset: Preset) -> None:
    """Walk to where there is room, then dance a series of one class."""
    step = _choose(random, style)
    count = 1
    while count < step.longest and random.random() < step.again:
        count += 1
    how = str(random.choice(step.manners[style]))
    side = 1 if random.random() < 0.5 else -1
    front, backwards = _front(random, preset)
    count = _go_to_start(dance, random, step, how, count, side, front, preset)
    first = len(dance.segments)
    for n in range(count):
        dance.side = side * (-1) ** n if step.alternates else side
        step.dance(dance, step.duration(random), random, how, n == 0, n == count - 1)
    dance.side = 1
    if backwards:
        steps = dance.segments[first:]
        dance.segments.append(Segment("Backwards", steps[0].start, steps[-1].end))


def _choose(random: np.random.Generator, style: Style) -> Step:
    steps = [step for step in STEPS.values() if style in step.manners]
    return steps[int(random.random() * len(steps))]


def _go_to_start(
    dance: Dance, random: np.random.Generator, step: Step, how: str, count: int, side: int, front: float, preset: Preset
) -> int:
    """Walk to a place from which the series fits on the floor; returns how many steps of it do."""
    reach = np.array(preset.reach)
    travel = step.travel_of.get(how, step.travel)
    direction = -side * np.array([np.cos(front), -np.sin(front)])
    if step.alternates:
        way = direction * travel  # there and back
    else:
        room = np.min(2 * reach / np.maximum(np.abs(direction), 1e-6))
        count = max(1, min(count, int(room // travel))) if travel else count
        way = direction * travel * count
    # The path's middle, as far from its own middle as the path leaves room.
    slack = np.maximum(reach - np.abs(way) / 2, 0.0)
    here = np.clip(dance.place + way / 2, -slack, slack)
    middle = here if random.random() < 0.7 else random.uniform(-slack, slack)
    start = middle - way / 2
    distance = float(np.hypot(*(start - dance.place)))
    if distance > 0.25 or abs(fillers.nearest_turn(dance.front, front)) > 0.15:
        fillers.walk(dance, (float(start[0]), float(start[1])), front, run=distance > 1.5 and random.random() < 0.5)
    return count


def _front(random: np.random.Generator, preset: Preset) -> tuple[float, bool]:
    """Where a phrase faces, and whether that is the back."""
    front = float(random.uniform(-preset.front, preset.front))
    if random.random() < preset.backwards:
        return np.pi + 0.5 * front, True
    return front, False


def _pause(dance: Dance, random: np.random.Generator, preset: Preset, *, first: bool = False) -> None:
    seconds = float(random.uniform(*preset.rest))
    kind = random.random()
    if first and kind < 0.2:
        fillers.reverence(dance, random)
    elif kind < 0.45:
        fillers.stand(dance, seconds, random)
    elif kind < 0.85:
        fillers.port_de_bras(dance, seconds, random)
    if random.random() < preset.lookalikes:
        fillers.lookalike(dance, random)


def _bystander(random: np.random.Generator, seconds: float, preset: Preset) -> Motion:
    """Somebody who walks, stands and moves her arms, mostly at the side or behind."""
    style: Style = "woman" if random.random() < 0.5 else "man"

    def spot() -> tuple[float, float]:
        x = float(random.uniform(0.5, 1.0)) * preset.reach[0] * (1 if random.random() < 0.5 else -1)
        return x, float(random.uniform(-1.0, 0.0)) * preset.reach[1]

    dance = Dance(random_body(random, style), spot(), float(random.uniform(-0.8, 0.8)))
    while dance.time < seconds:
        kind = random.random()
        if kind < 0.35:
            fillers.walk(dance, spot(), float(random.uniform(-0.8, 0.8)))
        elif kind < 0.7:
            fillers.stand(dance, float(random.uniform(1, 5)), random)
        else:
            fillers.port_de_bras(dance, float(random.uniform(1, 4)), random)
    return dance.motion(seconds)
