"""Draws a person: the parts of a body from far to near, each lit from one side."""

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

from balletal.synthetic.camera import View
from balletal.synthetic.costume import Look
from balletal.synthetic.shape import BALL, FLUSH, Shape

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]
_Face = tuple[NDArray[np.int32], list[float]]  # four corners in sixteenths of a pixel, and a colour

_PELVIS = ("left_pelvis", "right_pelvis", "left_seat", "right_seat", "crotch")
_WAIST = ("left_pelvis", "right_pelvis", "left_waist", "right_waist")
_RING = np.stack([np.cos(np.linspace(0, 2 * np.pi, 14, False)), np.sin(np.linspace(0, 2 * np.pi, 14, False))], axis=1)


def draw_person(picture: Image, view: View, at: Shape, moment: int, look: Look, corner: Floats, zoom: float) -> None:
    """Draw into ``picture`` (H, W, 3).

    Args:
        view: the camera.
        at: the person at several moments.
        moment: which of them.
        look: what is worn.
        corner: (2,) pixels of the camera's picture at this picture's corner.
        zoom: this picture's pixels for one of the camera's.
    """
    _Pen(picture, view, at, moment, look, corner, zoom).person()


class _Pen:
    """One person's projection while it is drawn."""

    def __init__(self, picture: Image, view: View, at: Shape, moment: int, look: Look, corner: Floats, zoom: float):
        self.picture, self.look = picture, look
        self.corner, self.zoom, self.view = corner, zoom, view
        pixels, self.depth = view.project(at.balls[moment])
        radii = np.maximum(at.radii * view.focal / self.depth * zoom, 0.4)
        centres = (pixels - corner) * zoom - 0.5
        tall = float(radii[BALL["left_hip"]])
        self.layers = 1 if tall < 2 else 2 if tall < 4 else 4 if tall < 20 else 7
        share = np.multiply.outer(np.arange(self.layers) / self.layers, ~FLUSH)
        balls = centres + look.light * (0.58 * share * radii)[..., None]
        rings = balls[:, :, None] + (radii * (1 - 0.6 * share))[..., None, None] * _RING
        self.rings = np.round(rings * 16).astype(np.int32)
        # Most of a lit limb is bright, and its shaded edge narrow.
        self.shades = (1 - look.depth * (1 - (np.arange(self.layers) + 1) / (self.layers + 0.5)) ** 1.3).tolist()
        self.head = float(radii[BALL["skull"]])
        self.eyes, self.eye_depth = view.project(at.eyes[moment])
        self.skirt, self.tone = at.skirt[moment], at.tone[moment]
        self.balls = at.balls[moment]
        self.trousers = (_PELVIS, _WAIST) if look.style == "man" or look.costume == "suit" else ()

    def person(self) -> None:
        back, front = self._skirt_faces()
        arms = sorted(("left", "right"), key=lambda side: -self._near(f"{side}_wrist", f"{side}_elbow"))
        chest = self._near("left_chest", "right_chest")
        over = [side for side in arms if self._near(f"{side}_wrist", f"{side}_elbow") < chest + 0.03]
        for side in arms:
            if side not in over:
                self._arm(side)
        legs = sorted(("left", "right"), key=lambda side: -self._near(f"{side}_knee", f"{side}_ankle"))
        ahead = [side for side in legs if self._raised(side)]
        self._faces(back)
        for side in legs:
            if side not in ahead:
                self._leg(side, *self.trousers)
        if len(ahead) == 2:
            self._blobs(self.look.tights, *self.trousers)
        self._torso()
        self._faces(front)
        for side in ahead:
            self._leg(side)
        self._head()
        for side in over:
            self._arm(side)

    def _near(self, *names: str) -> float:
        return float(np.mean([self.depth[BALL[name]] for name in names]))

    def _raised(self, side: str) -> bool:
        """Whether the thigh points to the camera, so that the leg hides skirt and trunk."""
        hip, knee = self.balls[BALL[f"{side}_hip"]], self.balls[BALL[f"{side}_knee"]]
        thigh = knee - hip
        nearer = float(self.depth[BALL[f"{side}_hip"]] - self.depth[BALL[f"{side}_knee"]])
        return nearer > 0.2 and thigh[1] > -0.28

    def _blobs(self, colour: Floats, *hulls: tuple[str, ...]) -> None:
        """Fill the hulls of balls, layer by layer: each lighter, smaller and nearer to the light."""
        indices = [[BALL[name] for name in hull] for hull in hulls]
        for ring, shade in zip(self.rings, self.shades, strict=True):
            tone = np.minimum(colour * shade, 255).tolist()
            for index in indices:
                hull = cv2.convexHull(ring[index].reshape(-1, 2))
                cv2.fillConvexPoly(self.picture, hull, tone, cv2.LINE_AA, 4)

    def _chain(self, colour: Floats, side: str, *names: str) -> None:
        self._blobs(colour, *((f"{side}_{a}", f"{side}_{b}") for a, b in itertools.pairwise(names)))

    def _leg(self, side: str, *trousers: tuple[str, ...]) -> None:
        look = self.look
        names = [f"{side}_{name}" for name in ("hip", "thigh", "knee", "calf", "shin", "ankle")]
        self._blobs(look.tights, *trousers, *itertools.pairwise(names))
        self._blobs(
            look.shoe,
            (f"{side}_ankle", f"{side}_heel", f"{side}_instep"),
            (f"{side}_instep", f"{side}_ball", f"{side}_heel"),
            (f"{side}_ball", f"{side}_toe"),
        )

    def _arm(self, side: str) -> None:
        look = self.look
        self._chain(look.skin, side, "shoulder", "upper", "elbow", "fore", "wrist", "palm", "hand")
        if look.sleeve is not None:
            long = ("elbow", "fore", "wrist") if look.style == "man" or look.costume == "suit" else ()
            self._chain(look.sleeve, side, "shoulder", "upper", *long)

    def _torso(self) -> None:
        look, both = self.look, lambda *names: tuple(f"{side}_{name}" for name in names for side in ("left", "right"))
        covered = look.style == "man" or look.costume == "suit"
        low = () if look.style == "man" and look.costume == "leotard" else (both("waist", "pelvis"),)
        brief = (_PELVIS,) if look.style == "woman" and look.costume == "leotard" else ()
        top = (both("shoulder", "slope"), both("shoulder", "chest"), both("chest", "rib"))
        bodice = (both("bust", "rib"), both("rib", "waist"), *low, *brief)
        self._blobs(look.skin, ("nape", "throat"), (*both("slope"), "nape"), *(() if covered else top))
        self._blobs(look.bodice, *(top if covered else ()), *bodice)

    def _head(self) -> None:
        look = self.look
        parts = {
            "face": lambda: self._blobs(look.skin, ("brow", "cheek"), ("cheek", "chin")),
            "skull": lambda: self._blobs(look.hair, ("skull", "crown")),
            "bun": lambda: self._blobs(look.hair * 0.92, ("bun",)),
        }
        depth = {"face": self._near("cheek"), "skull": self._near("skull"), "bun": self._near("bun")}
        self._blobs(look.skin * 0.94, ("nape", "throat"), ("throat", "cheek"))
        for name in sorted(parts, key=lambda name: -depth[name]):
            if name != "bun" or look.bun is not None:
                parts[name]()
        if self.head > 5 and depth["face"] < depth["skull"] - 0.015:
            self._face()

    def _face(self) -> None:
        """Eyes and mouth as far as they face the camera."""
        centre = self._near("brow")
        points = (self.eyes - self.corner) * self.zoom - 0.5
        for eye, depth in zip(points[:2], self.eye_depth[:2], strict=True):
            if depth < centre:
                self._dot(eye, self.head * 0.11, self.look.hair * 0.5 + self.look.skin * 0.1)
                brow = eye - [0, self.head * 0.2]
                self._dot(brow, self.head * 0.08, self.look.hair * 0.7 + self.look.skin * 0.25)
        if self.depth[BALL["mouth"]] < self._near("cheek") - 0.03:
            mouth = self.rings[0, BALL["mouth"]].mean(0) / 16
            self._dot(mouth, self.head * 0.13, self.look.skin * [0.8, 0.45, 0.45])

    def _dot(self, point: Floats, radius: float, colour: Floats) -> None:
        x, y = (round(float(v) * 16) for v in point)
        axes = (round(radius * 16 * 1.3), max(1, round(radius * 10)))
        cv2.ellipse(self.picture, (x, y), axes, 0, 0, 360, colour.tolist(), -1, cv2.LINE_AA, 4)

    def _skirt_faces(self) -> tuple[list[_Face], list[_Face]]:
        """The skirt's faces behind and before the body's middle, far to near."""
        rows = len(self.tone)
        if not rows:
            return [], []
        pixels, depth = self.view.project(self.skirt)
        points = np.round(((pixels - self.corner) * self.zoom - 0.5) * 16).astype(np.int32)
        beside = np.roll(points, -1, axis=1)
        corners = np.stack([points[:-1], beside[:-1], beside[1:], points[1:]], axis=2).reshape(-1, 4, 2)
        cloth = np.repeat(self.look.skirt[None], rows, axis=0)
        cloth[0] = self.look.bodice
        if self.look.costume == "tutu":
            cloth[1] = self.look.trim
        elif self.look.costume == "dress":
            cloth[0] = self.look.bodice * 0.3 + self.look.skirt * 0.7
        colours = np.minimum(cloth[:, None] * self.tone[..., None], 255).reshape(-1, 3).tolist()
        far = ((depth[:-1] + depth[1:]) / 2).ravel()
        faces = [(corners[i], colours[i]) for i in np.argsort(-far, kind="stable").tolist()]
        behind = int(np.sum(far > self._near("left_hip", "right_hip")))
        return faces[:behind], faces[behind:]

    def _faces(self, faces: list[_Face]) -> None:
        for corners, colour in faces:
            # Not smoothed: seams between smoothed neighbours let the ground shine through.
            cv2.fillConvexPoly(self.picture, corners, colour, cv2.LINE_8, 4)
