"""Somebody who sits at the side and plays: a person to look past."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balletal.synthetic.body import JOINTS, Body

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Musician:
    """A seated person who sways and moves the forearms.

    Attributes:
        body: lengths.
        place: x and z of the seat, metres.
        yaw: where the person looks: 0 to the audience, positive to her left; radians.
        tempo: of the arms, Hz.
        phase: of all movement, radians.
        bows: whether one arm sweeps to and fro, as with a violin; else both play in front.
    """

    body: Body
    place: tuple[float, float]
    yaw: float
    tempo: float
    phase: float
    bows: bool

    def joints(self, times: ArrayLike) -> Floats:
        """(T, 22, 3) metres."""
        t = np.atleast_1d(np.asarray(times, float))
        body, zero = self.body, np.zeros(len(t))
        beat = np.sin(2 * np.pi * self.tempo * t + self.phase)
        sway = 0.05 * np.sin(2 * np.pi * 0.23 * t + self.phase)
        points: dict[str, Floats] = {}

        def add(name: str, start: Floats | str, *way: ArrayLike) -> None:
            """A joint on the way (x, y, z) from another one."""
            origin = points[start] if isinstance(start, str) else start
            points[name] = origin + np.stack(
                [np.broadcast_to(np.asarray(part, float), t.shape) for part in way], axis=1
            )

        hips = np.stack([zero, zero + 0.3 * body.stature, zero], axis=1)
        neck = hips + body.trunk * np.stack([sway, zero + 0.98, zero + 0.12], axis=1)
        add("ears", neck, 0.3 * sway, 0.95 * body.neck, 0.2 * body.neck)
        add("head_top", "ears", 0, body.head, 0)
        add("nose", "ears", 0, -0.02, 0.1)
        for side, s in (("left", 1), ("right", -1)):
            add(f"{side}_ear", "ears", s * 0.07, 0, 0)
            add(f"{side}_eye", "ears", s * 0.03, 0.02, 0.085)
            add(f"{side}_hip", hips, s * body.hips, 0, 0)
            add(f"{side}_knee", f"{side}_hip", s * 0.08, -0.03, body.thigh * 0.97)
            add(f"{side}_ankle", f"{side}_knee", 0, body.ankle - points[f"{side}_knee"][:, 1], -0.02)
            add(f"{side}_toe", f"{side}_ankle", s * 0.04, -body.ankle + 0.02, body.foot * 0.8)
            add(f"{side}_shoulder", neck, s * body.shoulders, 0, 0)
            sweep = beat * (1.0 if s < 0 else 0.15) if self.bows else beat * s * 0.3
            add(
                f"{side}_elbow",
                f"{side}_shoulder",
                s * body.arm * 0.35,
                -body.arm * 0.8,
                body.arm * (0.45 + 0.15 * sweep),
            )
            add(f"{side}_wrist", f"{side}_elbow", body.forearm * (0.55 * sweep - 0.3 * s), 0.05 + 0.02 * beat * s,
                body.forearm * 0.8)  # fmt: skip
            add(f"{side}_hand", f"{side}_wrist", -s * 0.03, -0.02, body.hand * 0.9)
        joints = np.stack([points[name] for name in JOINTS], axis=1)
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        x, z = joints[..., 0] * c + joints[..., 2] * s, joints[..., 2] * c - joints[..., 0] * s
        return np.stack([x + self.place[0], joints[..., 1], z + self.place[1]], axis=-1)
