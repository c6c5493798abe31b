"""Difficulty presets: what may happen in front of and inside the camera."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

CameraKind = Literal["fixed", "pan", "zoom", "handheld"]
Place = Literal["plain", "stage", "studio"]
Range = tuple[float, float]


@dataclass(frozen=True)
class Preset:
    """The ranges that a video's choreography and picture are drawn from. Shares and probabilities are in [0, 1].

    Attributes:
        summary: one line for people.
        reach: half the width and half the depth of the floor that is danced on, metres.
        front: largest angle between the dancer's front and the audience, radians (unless she dances backwards).
        rest: shortest and longest pause between phrases, seconds.
        backwards: probability that a phrase faces the back; it is tagged "Backwards".
        lookalikes: probability that a pause holds a movement that resembles a step but is none (soutenu turn, temps
            levé, changement, tendu).
        size: the standing dancer's height as a share of the picture's height; smaller where all that is danced would
            not fit in.
        cameras: kinds of camera.
        places: kinds of scenery.
        contrast: how far the dancer's colours stand off from the scenery's, 0 (may drown) to 1.
        exposure: how long the shutter is open, share of a frame.
        noise: sensor noise, standard deviation in grey levels of 255. Its upper end also says how bad the camera is
            otherwise: how dark its corners, how false its colours, how soft its pictures.
        crf: H.264 constant rate factor.
        fps: frame rates.
        vfr: probability of a variable frame rate.
        portrait: probability of an upright picture.
        audio: probability of an audio track.
        company: probability of a second dancer; musicians are half as likely.
    """

    summary: str
    reach: tuple[float, float]
    front: float
    rest: Range
    backwards: float
    lookalikes: float
    size: Range
    cameras: tuple[CameraKind, ...]
    places: tuple[Place, ...]
    contrast: Range
    exposure: Range
    noise: Range
    crf: tuple[int, int]
    fps: tuple[float, ...]
    vfr: float
    portrait: float
    audio: float
    company: float


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "easy": Preset(
            summary="one dancer, large, facing the audience; fixed camera, plain scenery, 25 fps",
            reach=(1.1, 0.5),
            front=0.35,
            rest=(0.2, 0.8),
            backwards=0.0,
            lookalikes=0.0,
            size=(0.38, 0.56),
            cameras=("fixed",),
            places=("plain",),
            contrast=(0.7, 1.0),
            exposure=(0.2, 0.4),
            noise=(0.0, 2.0),
            crf=(20, 24),
            fps=(25.0,),
            vfr=0.0,
            portrait=0.0,
            audio=0.0,
            company=0.0,
        ),
        "stage": Preset(
            summary="a competition stage filmed from the hall: a still or a following camera, light, curtains",
            reach=(4.0, 2.0),
            front=0.7,
            rest=(0.4, 4.0),
            backwards=0.04,
            lookalikes=0.3,
            size=(0.25, 0.55),
            cameras=("fixed", "pan", "zoom"),
            places=("stage",),
            contrast=(0.5, 1.0),
            exposure=(0.2, 0.6),
            noise=(1.0, 4.0),
            crf=(22, 28),
            fps=(25.0, 25.97, 29.97, 30.0),
            vfr=0.1,
            portrait=0.0,
            audio=0.5,
            company=0.1,
        ),
        "wild": Preset(
            summary="whatever is uploaded: telephones, mirrors, other people, tiny or huge dancers, bad light",
            reach=(5.0, 3.0),
            front=1.2,
            rest=(0.3, 6.0),
            backwards=0.12,
            lookalikes=0.5,
            size=(0.1, 0.8),
            cameras=("fixed", "pan", "zoom", "handheld"),
            places=("plain", "stage", "studio"),
            contrast=(0.2, 1.0),
            exposure=(0.2, 0.9),
            noise=(1.0, 10.0),
            crf=(24, 34),
            fps=(25.0, 25.97, 29.97, 30.0),
            vfr=0.3,
            portrait=0.25,
            audio=0.6,
            company=0.4,
        ),
    }
)
