"""The classes: who dances them, how long they last, how they come in series, how much floor they need."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from balletal.synthetic import steps_floor, steps_jumps, steps_turns
from balletal.synthetic.body import Style
from balletal.synthetic.steps import DanceStep

BOTH: tuple[Style, ...] = ("woman", "man")


@dataclass(frozen=True)
class Step:
    """A class (its left and right forms together).

    Attributes:
        dance: dances one.
        labels: fine labels that it marks: right and left, or one.
        seconds: 5, 25, 50, 75 and 95 % quantiles of the annotated durations in AnnChor's training part.
        again: share of AnnChor's segments that another of the same class follows.
        longest: most in a series here.
        travel: metres of floor that one takes with its approach, counted to the dancer's right.
        manners: ``how`` for each style that dances it.
        alternates: a series goes right, left, right.
        travel_of: ``travel`` of the manners in which it differs.
    """

    dance: DanceStep
    labels: tuple[str, ...]
    seconds: tuple[float, float, float, float, float]
    again: float
    longest: int
    travel: float
    manners: Mapping[Style, tuple[str, ...]]
    alternates: bool = False
    travel_of: Mapping[str, float] = field(default_factory=dict)

    def duration(self, random: np.random.Generator) -> float:
        """A duration in seconds, from the 5 to the 95 % quantile."""
        return float(np.interp(random.uniform(0.05, 0.95), (0.05, 0.25, 0.5, 0.75, 0.95), self.seconds))


def _all(*manners: str) -> dict[Style, tuple[str, ...]]:
    return dict.fromkeys(BOTH, manners)


STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "ExtDerriere": Step(
            steps_floor.extension_derriere, ("ExtDerriereOnRight", "ExtDerriereOnLeft"),
            (0.28, 0.37, 0.47, 0.65, 1.07), 0.28, 2, 0.1,
            _all("arabesque", "arabesque", "attitude", "arabesque fondu", "attitude fondu"),
        ),
        "Courus": Step(
            steps_floor.courus, ("Courus",), (0.32, 0.56, 0.80, 1.18, 2.60), 0.28, 2, 0.6,
            {"woman": ("side", "forward", "back", "place")}, travel_of={"side": 2.0},
        ),
        "EchappeSecond": Step(
            steps_floor.echappe, ("EchappeSecond",), (0.66, 0.84, 0.98, 1.14, 1.66), 0.63, 5, 0.0,
            {"woman": ("second", "second", "high", "side")},
        ),
        "CabrioleDevant": Step(
            steps_jumps.cabriole_devant, ("CabrioleDevantRight", "CabrioleDevantLeft"),
            (0.52, 0.62, 0.70, 0.76, 0.84), 0.45, 3, 1.75, _all("single"),
        ),
        "GrandJete": Step(
            steps_jumps.grand_jete, ("GrandJeteRight", "GrandJeteLeft"),
            (0.50, 0.58, 0.66, 0.72, 0.84), 0.32, 4, 2.1, _all("straight", "developpe"),
        ),
        "Pirouette": Step(
            steps_turns.pirouette, ("PirouetteRight", "PirouetteLeft"), (0.42, 0.54, 0.64, 0.78, 1.0), 0.7, 8, 0.0,
            {"woman": ("retire", "retire", "attitude", "fouette", "pique"),
             "man": ("retire", "retire", "attitude", "second")}, travel_of={"pique": 0.45},
        ),
        "SissonneF": Step(
            steps_jumps.sissonne, ("SissonneFRight", "SissonneFLeft"), (0.62, 0.70, 0.77, 0.88, 0.99), 0.4, 4, 0.55,
            _all("side", "side", "high"), alternates=True,
        ),
        "ExtensionSecond": Step(
            steps_floor.extension_second, ("ExtSecondRight", "ExtSecondLeft"),
            (0.38, 0.47, 0.55, 0.66, 0.92), 0.14, 2, 0.0,
            _all("developpe", "developpe", "battement", "developpe fondu"),
        ),
        "TourEnLair": Step(
            steps_jumps.tour_en_lair, ("TourEnLair",), (0.74, 0.84, 0.92, 1.0, 1.26), 0.31, 3, 0.0,
            {"man": ("double", "double", "double", "single", "double retire", "single retire")},
        ),
        "CabrioleDerriere": Step(
            steps_jumps.cabriole_derriere, ("CabrioleDerriereRight", "CabrioleDerriereLeft"),
            (0.52, 0.62, 0.76, 0.86, 1.0), 0.25, 3, 1.65, _all("single", "double"),
        ),
        "WaltzStep": Step(
            steps_floor.balance, ("BalanceDCRight", "BalanceDCLeft"), (0.61, 0.75, 0.87, 1.0, 1.25), 0.6, 4, 0.6,
            _all("high", "high", "low"), alternates=True,
        ),
    }
)  # fmt: skip
"""By coarse label (schemas/labels/annchor-coarse.json)."""
