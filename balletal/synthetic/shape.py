"""A person's body and costume around the joints: balls whose hulls are the body's parts, and skirts as small meshes.

Balls stay round from every side, so a body made of them turns and foreshortens correctly without a mesh of skin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balletal.synthetic.body import JOINT, JOINTS
from balletal.synthetic.costume import FOLDS, Costume, Look

Floats = NDArray[np.float64]

_TALL = 1.66  # metres; the tables below are for somebody as tall

# name: joints' weights, offset in the trunk's or head's axes (left, up, front), radius of a woman and of a man; metres.
_Ball = tuple[dict[str, float], tuple[float, float, float], float, float]


def _limbs() -> dict[str, _Ball]:
    balls: dict[str, _Ball] = {}
    none = (0.0, 0.0, 0.0)
    for side in ("left", "right"):
        chains = {
            ("hip", "knee"): (("hip", 0.0, 0.072, 0.074), ("thigh", 0.42, 0.061, 0.069), ("knee", 1.0, 0.041, 0.046)),
            ("knee", "ankle"): (
                ("calf", 0.3, 0.044, 0.051),
                ("shin", 0.68, 0.031, 0.036),
                ("ankle", 1.0, 0.024, 0.029),
            ),
            ("ankle", "toe"): (
                ("instep", 0.35, 0.028, 0.032),
                ("ball", 0.68, 0.025, 0.029),
                ("toe", 0.97, 0.014, 0.018),
            ),
            ("shoulder", "elbow"): (
                ("shoulder", 0.02, 0.036, 0.045),
                ("upper", 0.45, 0.031, 0.038),
                ("elbow", 1.0, 0.024, 0.028),
            ),
            ("elbow", "wrist"): (("fore", 0.3, 0.026, 0.032), ("wrist", 1.0, 0.016, 0.02)),
            ("wrist", "hand"): (("palm", 0.45, 0.019, 0.025), ("hand", 0.97, 0.006, 0.009)),
        }
        for (a, b), row in chains.items():
            for name, share, woman, man in row:
                balls[f"{side}_{name}"] = ({f"{side}_{a}": 1 - share, f"{side}_{b}": share}, none, woman, man)
        # Behind and below the ankle on a flat foot, on the line of the leg on a stretched one.
        heel = {f"{side}_ankle": 1.24, f"{side}_toe": -0.14, f"{side}_knee": -0.1}
        balls[f"{side}_heel"] = (heel, none, 0.022, 0.026)
    return balls


def _trunk() -> dict[str, _Ball]:
    balls: dict[str, _Ball] = {}
    for side, s in (("left", 1), ("right", -1)):
        for name, height, across, front, woman, man in (
            ("chest", 0.78, 0.066, 0.0, 0.066, 0.09),
            ("bust", 0.66, 0.062, 0.028, 0.062, 0.078),
            ("rib", 0.5, 0.05, 0.004, 0.062, 0.082),
            ("waist", 0.28, 0.044, 0.0, 0.056, 0.074),
        ):
            middle = {f"{end}_{part}": share / 2 for end in ("left", "right") for part, share in
                      (("shoulder", height), ("hip", 1 - height))}  # fmt: skip
            balls[f"{side}_{name}"] = (middle, (s * across, 0, front), woman, man)
        balls[f"{side}_pelvis"] = ({f"{side}_hip": 1.0}, (-s * 0.012, 0.03, -0.006), 0.078, 0.078)
        balls[f"{side}_seat"] = ({f"{side}_hip": 1.0}, (-s * 0.02, -0.02, -0.035), 0.076, 0.076)
        balls[f"{side}_slope"] = (
            {f"{side}_shoulder": 0.5, f"{'right' if s > 0 else 'left'}_shoulder": 0.5},
            (s * 0.055, 0.022, -0.012),
            0.028,
            0.036,
        )
    shoulders = {"left_shoulder": 0.5, "right_shoulder": 0.5}
    ears = {"left_ear": 0.5, "right_ear": 0.5}
    balls["crotch"] = ({"left_hip": 0.5, "right_hip": 0.5}, (0, -0.04, 0), 0.06, 0.066)
    balls["nape"] = (shoulders, (0, 0.03, -0.005), 0.042, 0.055)
    balls["throat"] = (
        {k: v * 0.35 for k, v in shoulders.items()} | {k: v * 0.65 for k, v in ears.items()},
        (0, 0, 0),
        0.037,
        0.05,
    )
    return balls


def _head() -> dict[str, _Ball]:
    ears = {"left_ear": 0.5, "right_ear": 0.5}
    return {
        "skull": (ears, (0, 0.048, -0.016), 0.076, 0.078),
        "crown": (ears, (0, 0.056, 0.01), 0.071, 0.072),
        "brow": (ears, (0, 0.036, 0.03), 0.06, 0.062),
        "cheek": (ears, (0, -0.012, 0.036), 0.056, 0.06),
        "chin": (ears, (0, -0.062, 0.058), 0.026, 0.033),
        "bun": (ears, (0, 0.0, -0.09), 0.036, 0.0),
        "mouth": (ears, (0, -0.043, 0.086), 0.012, 0.012),
    }


_BALLS = _limbs() | _trunk() | _head()
BALL = {name: i for i, name in enumerate(_BALLS)}
# Where a part ends inside another it is not shaded, or its end would show as a knob.
FLUSH = np.array([name.endswith(("shoulder", "hip", "nape", "slope")) for name in _BALLS])
_OF_HEAD = np.array([name in _head() for name in _BALLS])
_WEIGHTS = np.array([[ball[0].get(joint, 0.0) for joint in JOINTS] for ball in _BALLS.values()])
_OFFSETS = np.array([ball[1] for ball in _BALLS.values()])
_RADII = {
    "woman": np.array([ball[2] for ball in _BALLS.values()]),
    "man": np.array([ball[3] for ball in _BALLS.values()]),
}

# Skirts, from the waist to the hem and back inside: radius, height over the hips, stiffness's inverse (how far it
# follows a lifted thigh and lags behind), tone; metres.
_SKIRTS: dict[Costume, tuple[tuple[float, float, float, float], ...]] = {
    "tutu": (
        (0.118, 0.075, 0.0, 1.0),
        (0.165, 0.035, 0.3, 1.0),
        (0.3, 0.03, 1.0, 1.04),
        (0.43, 0.012, 1.0, 1.06),
        (0.42, -0.035, 1.0, 0.9),
        (0.24, -0.085, 0.8, 0.78),
    ),
    "dress": (
        (0.112, 0.1, 0.0, 1.0),
        (0.18, -0.02, 0.25, 1.0),
        (0.25, -0.24, 0.8, 1.0),
        (0.3, -0.46, 1.0, 1.05),
    ),
    "tunic": ((0.135, 0.06, 0.0, 1.0), (0.168, -0.03, 0.4, 1.0), (0.188, -0.12, 0.6, 0.95)),
}


@dataclass(frozen=True)
class Shape:
    """A person at T moments, metres.

    Attributes:
        balls, radii: (T, N, 3) and (N,).
        skirt: (T, M, K, 3) rings from the waist to the hem; M is 0 where none is worn.
        tone: (T, M - 1, K) how bright its faces are.
        eyes: (T, 3, 3) left eye, right eye, nose.
    """

    balls: Floats
    radii: Floats
    skirt: Floats
    tone: Floats
    eyes: Floats


def shape(joints: Floats, before: Floats, gap: float, stature: float, look: Look) -> Shape:
    """The person around the joints.

    Args:
        joints: (T, 22, 3) metres.
        before: (T, 22, 3) the same ``gap`` seconds earlier, for skirts to lag behind.
        stature: metres.
        look: what is worn.
    """
    size = stature / _TALL
    trunk, head = _trunk_axes(joints), _head_axes(joints)
    axes = np.where(_OF_HEAD[None, :, None, None], head[:, None], trunk[:, None])
    balls = _WEIGHTS @ joints + np.einsum("ni,tnij->tnj", _OFFSETS * size, axes)
    if look.bun is not None:
        balls[:, BALL["bun"]] += head[:, 1] * look.bun * size
    radii = _RADII[look.style] * size
    skirt, tone = _skirt(joints, before, gap, trunk, size, look)
    return Shape(balls, radii, skirt, tone, joints[:, [JOINT["left_eye"], JOINT["right_eye"], JOINT["nose"]]])


def _skirt(joints: Floats, before: Floats, gap: float, trunk: Floats, size: float, look: Look) -> tuple[Floats, Floats]:
    profile = np.array(_SKIRTS.get(look.costume, ()))
    if not len(profile):
        return np.zeros((len(joints), 0, FOLDS, 3)), np.zeros((len(joints), 0, FOLDS))
    radius, height, loose, tones = profile.T
    radius = radius * np.where(loose > 0.5, look.fullness, 1.0)
    hips = joints[:, [JOINT["left_hip"], JOINT["right_hip"]]]
    centre, past = hips.mean(1), before[:, [JOINT["left_hip"], JOINT["right_hip"]]].mean(1)
    stiff = look.costume == "tutu"
    if not stiff:  # hangs down, whatever the trunk does
        up = trunk[:, 1] * 0.35 + [0, 0.65, 0]
        trunk = _axes(trunk[:, 0], up)
    angles = np.arange(FOLDS) * (2 * np.pi / FOLDS)
    lift, length = np.arctan2(height, radius), np.hypot(radius, height)
    wave = 1 + (0.02 if stiff else 0.05) * look.folds[None, :] * loose[:, None] ** 2
    # A turning dress flares.
    turned = np.cross(_before_axis(before), trunk[:, 0])[:, 1].clip(-1, 1) / gap
    flare = 0.0 if stiff else np.minimum(np.abs(turned) * 0.09, 0.75)
    elevation = lift[None, :, None] + np.multiply.outer(flare * np.ones(len(joints)), loose)[:, :, None]
    elevation = np.repeat(elevation, FOLDS, axis=2)
    for side in ("left", "right"):
        thigh = joints[:, JOINT[f"{side}_knee"]] - joints[:, JOINT[f"{side}_hip"]]
        across, rise, ahead = np.einsum("tij,tj->it", trunk, thigh)
        to = np.arctan2(rise, np.hypot(across, ahead)) + 0.2
        apart = np.angle(np.exp(1j * (angles[None] - np.arctan2(ahead, across)[:, None])))
        near = np.exp(-((apart / 0.75) ** 2)) * np.minimum(1, np.hypot(across, ahead) / 0.12)[:, None]
        more = np.clip(to[:, None] - lift[None], 0, 1.3 if stiff else 2.2)
        elevation = np.maximum(elevation, lift[None, :, None] + more[:, :, None] * near[:, None] * loose[None, :, None])
    out = length[:, None] * wave * np.cos(elevation)
    high = length[:, None] * np.sin(elevation)
    around = np.cos(angles)[None, :, None] * trunk[:, None, 0] + np.sin(angles)[None, :, None] * trunk[:, None, 2]
    rings = centre[:, None, None] + size * (
        out[..., None] * around[:, None] + high[..., None] * trunk[:, None, None, 1]
    )
    behind = (past - centre) / gap * (0.012 if stiff else 0.06)
    reach = np.linalg.norm(behind, axis=1, keepdims=True)
    behind *= np.minimum(1, 0.16 / np.maximum(reach, 1e-9))
    rings += behind[:, None, None] * loose[None, :, None, None] ** 2
    along = rings[:, 1:] - rings[:, :-1]
    aside = np.roll(rings, -1, axis=2)[:, :-1] - rings[:, :-1]
    normal = np.cross(along, aside)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True).clip(1e-9)
    lamp = np.array([look.light[0], 0.8, 0.5]) / np.linalg.norm([look.light[0], 0.8, 0.5])
    lit = 0.5 + 0.5 * np.abs(normal @ lamp)
    folds = 1 + (0.05 if stiff else 0.09) * look.folds * np.sqrt(loose[1:, None])
    return rings, (1 - look.depth + look.depth * lit) * folds * tones[1:, None] * 1.04


def _trunk_axes(joints: Floats) -> Floats:
    """(T, 3, 3) rows left, up, front."""
    hips = joints[:, [JOINT["left_hip"], JOINT["right_hip"]]]
    shoulders = joints[:, [JOINT["left_shoulder"], JOINT["right_shoulder"]]]
    return _axes(hips[:, 0] - hips[:, 1], shoulders.mean(1) - hips.mean(1))


def _head_axes(joints: Floats) -> Floats:
    left, right, top = (joints[:, JOINT[name]] for name in ("left_ear", "right_ear", "head_top"))
    return _axes(left - right, top - (left + right) / 2)


def _before_axis(before: Floats) -> Floats:
    left = before[:, JOINT["left_hip"]] - before[:, JOINT["right_hip"]]
    return np.asarray(left / np.linalg.norm(left, axis=1, keepdims=True).clip(1e-9))


def _axes(left: Floats, up: Floats) -> Floats:
    """(T, 3, 3) orthonormal rows left, up, front; ``up`` is kept."""
    up = up / np.linalg.norm(up, axis=1, keepdims=True).clip(1e-9)
    left = left - np.sum(left * up, axis=1, keepdims=True) * up
    left = left / np.linalg.norm(left, axis=1, keepdims=True).clip(1e-9)
    return np.stack([left, up, np.cross(left, up)], axis=1)
