"""What a person looks like: skin, hair, costume and the light on them."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from balletal.synthetic.body import Style

Floats = NDArray[np.float64]
Costume = Literal["tutu", "dress", "leotard", "tunic", "suit"]

_SKIN = (
    (241, 206, 184),
    (228, 186, 158),
    (214, 168, 138),
    (196, 146, 114),
    (160, 112, 82),
    (118, 80, 58),
    (88, 60, 46),
)
_HAIR = ((30, 24, 22), (48, 34, 28), (72, 48, 34), (104, 72, 46), (150, 112, 70), (92, 46, 30))
_HOSE = ((240, 238, 232), (208, 203, 196), (150, 150, 156), (92, 98, 118), (30, 30, 34))
_TIGHTS = ((242, 206, 196), (246, 224, 214), (248, 240, 234))


@dataclass(frozen=True)
class Look:
    """Colours are RGB in [0, 255] as the light shows them.

    Attributes:
        style: of the body that is dressed.
        costume: what is worn.
        skin, hair, bodice, skirt, trim, tights, shoe: colours.
        sleeve: its colour, if there is one: a puffed one of a dress, or a long one.
        light: (2,) direction on the picture (x right, y down) that light comes from, length at most 1.
        depth: how much darker the shaded side is, 0 to 1.
        fullness: of the skirt, a factor on its width.
        folds: (K,) the skirt's ruffles around the body, about -1 to 1.
        bun: how high the hair is pinned up, metres over the ears; None for short hair.
    """

    style: Style
    costume: Costume
    skin: Floats
    hair: Floats
    sleeve: Floats | None
    bodice: Floats
    skirt: Floats
    trim: Floats
    tights: Floats
    shoe: Floats
    light: Floats
    depth: float
    fullness: float
    folds: Floats
    bun: float | None


FOLDS = 24  # around a skirt


def random_look(
    random: np.random.Generator, style: Style, scenery: Floats, contrast: float, tint: Floats, light: Floats
) -> Look:
    """A costume that stands off from the scenery.

    Args:
        style: of the body.
        scenery: (N, 3) RGB colours that will be behind the dancer.
        contrast: 0: colours near the scenery's are likely; 1: far from it.
        tint: (3,) factors of the stage light.
        light: (2,) direction on the picture that light comes from.
    """
    if style == "man":
        costume: Costume = random.choice(np.array(["tunic", "tunic", "leotard"])).item()
    else:
        costume = random.choice(np.array(["tutu", "tutu", "tutu", "dress", "dress", "leotard"])).item()

    def lit(colour: tuple[float, ...] | Floats) -> Floats:
        return np.clip(np.array(colour) * tint, 0, 255)

    def pick(candidates: Iterable[tuple[float, ...] | Floats]) -> Floats:
        """The candidate whose distance from the scenery is nearest to what the contrast asks for."""
        colours = [lit(candidate) for candidate in candidates]
        apart = np.array([_distance(colour, scenery) for colour in colours])
        return colours[int(np.argmin(np.abs(apart - (5 + 75 * contrast))))]

    # Any skin, as long as it does not vanish.
    skins = [lit(_SKIN[int(i)]) for i in random.permutation(len(_SKIN))]
    clear = [skin for skin in skins if _distance(skin, scenery) > 8 + 25 * contrast]
    skin = clear[0] if clear else max(skins, key=lambda colour: _distance(colour, scenery))
    white = lit((240, 236, 228))
    cloth = pick(_cloth(random) for _ in range(10))
    other = lit(_cloth(random))
    sleeve, bodice, skirt = None, cloth if random.random() < 0.55 else other, cloth
    tights, shoe = lit(_TIGHTS[int(random.integers(len(_TIGHTS)))]), lit((238, 196, 186))
    if costume == "dress" and random.random() < 0.35:
        sleeve = white
    elif costume == "leotard" and random.random() < 0.25:
        tights = skin
    if style == "man":
        bodice = cloth
        tights = pick(_HOSE)
        shoe = tights * 0.95
        if random.random() < (0.9 if costume == "tunic" else 0.3):
            sleeve = cloth if random.random() < 0.6 else white
    return Look(
        style=style,
        costume=costume,
        skin=skin,
        hair=lit(_HAIR[int(random.integers(len(_HAIR)))]),
        sleeve=sleeve,
        bodice=bodice,
        skirt=skirt,
        trim=bodice * 0.5 + skirt * 0.5,
        tights=tights,
        shoe=shoe,
        light=light,
        depth=float(random.uniform(0.2, 0.42)),
        fullness=float(random.uniform(0.9, 1.12)),
        folds=_folds(random),
        bun=float(random.uniform(0.02, 0.1)) if style == "woman" else None,
    )


def plain_look(random: np.random.Generator, style: Style, tint: Floats, light: Floats) -> Look:
    """Somebody in dark everyday clothes: a musician."""
    skin = np.array(_SKIN[int(random.integers(len(_SKIN)))], float) * tint
    dark = random.uniform(18, 60) * tint
    hair = np.array(_HAIR[int(random.integers(len(_HAIR)))], float) * tint
    return Look(
        style=style,
        costume="suit",
        skin=skin,
        hair=hair,
        sleeve=dark,
        bodice=dark,
        skirt=dark,
        trim=dark,
        tights=dark * 0.9,
        shoe=dark * 0.6,
        light=light,
        depth=0.3,
        fullness=1.0,
        folds=_folds(random),
        bun=0.03 if style == "woman" else None,
    )


def _cloth(random: np.random.Generator) -> Floats:
    """White and black are frequent on stage, then saturated and pastel colours."""
    u = random.random()
    if u < 0.3:
        return np.array([244, 241, 236]) * random.uniform(0.9, 1.02)
    if u < 0.45:
        return np.array([34, 32, 38]) * random.uniform(0.7, 1.6)
    saturation, value = (random.uniform(0.5, 0.9), random.uniform(0.35, 0.8))
    if u < 0.7:
        saturation, value = (random.uniform(0.1, 0.35), random.uniform(0.75, 0.97))
    return 255 * np.array(colorsys.hsv_to_rgb(random.random(), saturation, value))


def _folds(random: np.random.Generator) -> Floats:
    """Ruffles: neighbours alternate, irregularly."""
    return np.asarray(np.where(np.arange(FOLDS) % 2 == 0, 1.0, -1.0) * random.uniform(0.2, 1, FOLDS))


def _distance(colour: Floats, scenery: Floats) -> float:
    """CIE 1976 difference to the nearest of the scenery's colours."""
    both = np.concatenate([np.atleast_2d(colour), scenery]).clip(0, 255)[None].astype(np.float32) / 255
    lab = cv2.cvtColor(both, cv2.COLOR_RGB2Lab)[0]
    return float(np.linalg.norm(lab[1:] - lab[0], axis=1).min())
