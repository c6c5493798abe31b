"""The dataset card of a drawn corpus: what it is, what is in it, what its files hold, what it is not."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version

import numpy as np

from balletal.annotations.table import SUBSETS, Annotations
from balletal.labels import LabelSet
from balletal.synthetic.body import JOINTS
from balletal.synthetic.corpus import GENERATOR, VideoRecord, to_annotations
from balletal.synthetic.presets import PRESETS

_CARD = """\
# Synthetic ballet: {videos} videos, preset {preset}, seed {seed}

Drawn dancers who perform steps of the AnnChor vocabulary, with the exact time of every step and the place of every
joint. Nothing here was filmed: there is no person, no recording and no choreography of anyone's in it.

Preset {preset}: {summary}.

## Made with

balletal {version}, corpus generator {generator}:

    {command}

The same command gives the same annotations anywhere, and the same pictures as long as the libraries that draw and
encode are the same. More `--videos` only add to a corpus: video number i is always the same one, in the same subset.

## Contents

{subsets}

Steps and their lengths; `Backwards` marks phrases that are danced with the back to the audience, beside their steps:

{classes}

How the videos were made:

{facts}

## Files

| file | what |
| --- | --- |
| `videos/<ID>.mp4` | H.264 (yuv420p), a keyframe about every second; some with AAC sound, unrelated to the dance |
| `annotations.json` | ActivityNet form: subset, duration, fps, solo; steps, and `Backwards` apart from them as tags |
| `via/<AAA>.csv` | the same steps as VIA 3 exports in AnnChor's form, a file for each variation |
| `joints/<ID>.parquet` | where every joint is in every picture |
| `config.yaml` | the settings; `balletal synth` goes on with a corpus of the same settings only |

An ID is three letters for the variation and four digits. Here videos of one variation share nothing but its letters.

`joints/<ID>.parquet` has a row for each picture and dancer:

| column | type | what |
| --- | --- | --- |
| `video_id` | string | |
| `frame` | int32 | number of the picture, from 0 |
| `time_s` | float64 | when it is shown, seconds: the file's presentation time |
| `dancer` | int32 | 0 is the annotated one; others only walk, stand and move their arms |
| `joints_2d` | float32[{flat}] | x, y of each joint in pixels, whether it can be seen or not |
| `joints_3d` | float32[{solid}] | x, y, z of each joint in metres |

Pixels: x to the right, y down, (0, 0) is the upper left corner of the picture, so that pixel centres lie at .5.
Metres: x to the picture's right, y up from the floor, z towards the audience, (0, 0, 0) in the middle of the floor.

Joints, in order: {joints}. Left and right are the dancer's. The first 17 are COCO's keypoints.
The file's metadata holds the video's facts as JSON under `balletal.video`.

## Times

All times are seconds on the video's presentation clock. A step starts and ends where AnnChor's annotation guide has
it, rounded to a millisecond. Some videos have a varying frame rate, as telephones make them: frames are late, and
some are missing. `fps` is then the average, and `segment(frames)` in `annotations.json` an average too.

## The preset's ranges

{ranges}

Two numbers are the least and the most that is drawn; `reach` is half the floor's width and depth in metres. Shares
and probabilities are of 1. `balletal/synthetic/presets.py` says what each means.

## Limits

It is drawn, not filmed: simple figures, clean movement, few kinds of scenery, lengths and transitions by rule. Scores
on it say that a pipeline works, not how well a model finds steps in real rehearsals; a model that saw nothing else need
not find any there. It is no replacement for annotated recordings. How often the classes occur is the generator's
choice, not AnnChor's.

## Licence

Apache-2.0, as balletal, which draws it.
"""


def dataset_card(
    records: Sequence[VideoRecord], *, seed: int, seconds: float, preset: str, size: tuple[int, int]
) -> str:
    """The card as Markdown; the same records give the same text.

    Args:
        seed, seconds, preset, size: what the corpus was made with; ``preset`` is one of ``PRESETS``.
    """
    annotations = to_annotations(records)
    options = f"--seed {seed} --preset {preset} --size {size[0]}x{size[1]}"
    return _CARD.format(
        videos=len(records),
        preset=preset,
        summary=PRESETS[preset].summary,
        seed=seed,
        version=version("balletal"),
        generator=GENERATOR,
        command=f"balletal synth --videos {len(records)} --seconds {seconds:g} --out DIR {options}",
        subsets=_subsets(records, annotations),
        classes=_classes(records, annotations),
        facts=_facts(records),
        ranges=_ranges(preset),
        flat=2 * len(JOINTS),
        solid=3 * len(JOINTS),
        joints=", ".join(JOINTS),
    )


def _subsets(records: Sequence[VideoRecord], annotations: Annotations) -> str:
    rows = []
    for name, chosen in (*((subset, {subset}) for subset in SUBSETS), ("all", set(SUBSETS))):
        mine = {record.video_id: record.duration for record in records if record.subset in chosen}
        steps = int(annotations.segments["video_id"].isin(list(mine)).sum())
        rows.append((name, len(mine), f"{sum(mine.values()):.1f}", steps))
    return _table(("subset", "videos", "seconds", "steps"), rows)


def _classes(records: Sequence[VideoRecord], annotations: Annotations) -> str:
    subset_of = {record.video_id: record.subset for record in records}
    fine = LabelSet.load("annchor-fine")
    rows = []
    for label in (*fine.labels, *fine.tags):
        table = annotations.tags if label in fine.tags else annotations.segments
        mine = table[table["label"] == label]
        counts = Counter(mine["video_id"].map(subset_of))
        lengths = (mine["end"] - mine["start"]).to_numpy()
        quantiles = [f"{q:.2f}" for q in np.quantile(lengths, (0.05, 0.5, 0.95))] if len(lengths) else ["-"] * 3
        rows.append((label, fine.to_coarse.get(label, "-"), *(counts[s] for s in SUBSETS), len(mine), *quantiles))
    return _table(("label", "coarse label", *SUBSETS, "all", "5 % s", "median s", "95 % s"), rows)


def _facts(records: Sequence[VideoRecord]) -> str:
    """How many videos there are of each kind."""
    kinds: dict[str, Counter[str]] = {}
    for record in records:
        facts = {
            "frames a second": "varying" if record.vfr else f"{record.fps:.5g}",
            "pixels": f"{record.width} x {record.height}",
            **dict(sorted(record.look.items())),
            "dancers": str(record.dancers),
            "annotated dancer": record.style,
            "sound": record.sound or "none",
        }
        for name, value in facts.items():
            kinds.setdefault(name, Counter())[value] += 1
    rows = ((name, ", ".join(f"{value} ({n})" for value, n in sorted(kinds[name].items()))) for name in kinds)
    return _table(("what", "kinds (videos)"), rows)


def _ranges(preset: str) -> str:
    settings = asdict(PRESETS[preset])
    del settings["summary"]  # stands above
    values = (value if isinstance(value, tuple) else (value,) for value in settings.values())
    return _table(("setting", "value"), ((n, ", ".join(map(str, v))) for n, v in zip(settings, values, strict=True)))


def _table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [tuple(header), *(tuple(map(str, row)) for row in rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
