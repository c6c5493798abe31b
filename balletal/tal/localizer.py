"""The bundle: everything that turns features of one spec into detections, in one folder.

``bundle.json`` (schemas/bundle.schema.json), ``projection.safetensors``, ``model.safetensors``, ``card.md``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.labels import LabelSet
from balletal.projection import FILE as PROJECTION_FILE
from balletal.projection import Projection
from balletal.segments import segment_table
from balletal.tal.config import Recipe
from balletal.tal.decoding import ClassScores
from balletal.tal.ensemble import Ensemble
from balletal.tal.models import TemporalModel
from balletal.tal.sequences import Grid
from balletal.tal.stream import Stream
from balletal.tal.windows import shortened

MANIFEST, MODEL_FILE, CARD = "bundle.json", "model.safetensors", "card.md"
FORMAT = "balletal-bundle-2"


@dataclass(frozen=True, eq=False)
class Localizer:
    """Labels, feature spec, projection, model and decoding parameters of one trained model, or of several together.

    Attributes:
        name: such as ``lstm-localize``.
        recipe: how it was trained and how it decodes.
        members: the recipes of several models that answer as one (:meth:`joined`); ``recipe``, the first's, decodes.
        about: JSON-able facts for people: data, split, seed, licence, validation metrics.
    """

    name: str
    labels: LabelSet
    projection: Projection
    recipe: Recipe
    model: TemporalModel | Ensemble
    about: dict[str, Any] = field(default_factory=dict)
    members: tuple[Recipe, ...] = ()

    @classmethod
    def joined(cls, name: str, localizers: "Sequence[Localizer]") -> "Localizer":
        """One that answers with the mean of several, of the first one's decoding; its scores are not calibrated.

        Raises:
            InputError: none, or two that differ in their labels, their projection, or the points they answer at.
        """
        for one in localizers[1:]:
            mine, others = localizers[0], f"{name}, member {one.name}"
            if mine.labels != one.labels:
                said = [f"{labels.name} ({', '.join(labels.labels)})" for labels in (mine.labels, one.labels)]
                raise InputError(others, expected=f"the labels of {mine.name}, {said[0]}", found=said[1])
            if mine.projection.digest != one.projection.digest:
                expected = f"the projection of {mine.name}, {mine.projection.digest[:12]}"
                raise InputError(others, expected=expected, found=one.projection.digest[:12])
        parts = [one.model.members if isinstance(one.model, Ensemble) else [one.model] for one in localizers]
        joined = Ensemble([cast(TemporalModel, model) for part in parts for model in part])
        first = localizers[0].with_temperature(1.0)
        members = tuple(recipe for one in localizers for recipe in one.members or (one.recipe,))
        about = {"members": [{"name": one.name, "digest": one.digest} for one in localizers]}  # seeds share a name
        return cls(name, first.labels, first.projection, first.recipe, joined, about, members)

    @property
    def spec(self) -> FeatureSpec:
        """The only kind of features that this bundle reads."""
        return self.projection.spec

    @property
    def grid(self) -> Grid:
        return Grid.of(self.spec, self.recipe.model.upsample)

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of the tags that detections may have; none where the model was not made to tell them."""
        return self.labels.tags if self.model.num_tags else ()

    @cached_property
    def digest(self) -> str:
        """sha256 over all that decides a detection: labels, spec, projection, recipe and weights."""
        parts = hashlib.sha256(json.dumps(self._decisive(), sort_keys=True).encode())
        parts.update(self.projection.digest.encode())
        for name, value in sorted(self.model.state_dict().items()):
            parts.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return parts.hexdigest()

    def localize(
        self,
        video: VideoFeatures,
        *,
        duration: float | None = None,
        min_score: float = 0.0,
        top_k: int | None = None,
        coarse: bool = False,
    ) -> pd.DataFrame:
        """Detections of one video, sorted by start, then falling score; what :meth:`stream` gives in the end.

        Args:
            video: features of this bundle's spec; a gap (a segment that failed) yields nothing there.
            duration: seconds; detections end there. None: where the last feature ends.
            min_score: lowest score kept.
            top_k: at most so many, the best.
            coarse: detect the coarse classes: the probabilities of the fine classes of each add up, to at most 1.

        Returns:
            Segment table with ``score``, and ``tags`` where the bundle has :attr:`tags`: a list of the names of those
            that go with the detection. ``0 <= start < end <= duration``. There are at most ``decode.max_segments`` a
            minute.

        Raises:
            InputError: features of another length or not finite; a duration that is none; ``coarse`` without coarse
                labels.
        """
        stream = self.stream(duration, video_id=video.video_id, min_score=min_score, coarse=coarse)
        return _whole(stream, video, top_k)

    def class_scores(
        self,
        video: VideoFeatures,
        times: NDArray[np.float64],
        *,
        duration: float | None = None,
        coarse: bool = False,
    ) -> NDArray[np.float64]:
        """How sure the model is of each class at some moments: (len(times), C) in [0, 1].

        Args:
            times: ascending seconds.
            duration, coarse: as in :meth:`localize`; C are the :meth:`class_names`.
        """
        return self.localize_with_scores(video, times, duration=duration, coarse=coarse)[1]

    def localize_with_scores(
        self,
        video: VideoFeatures,
        times: NDArray[np.float64],
        *,
        duration: float | None = None,
        coarse: bool = False,
    ) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """:meth:`localize` and :meth:`class_scores`; the model runs once."""
        stream = self.stream(duration, video_id=video.video_id, coarse=coarse)
        clips = round(float(video.start_s[-1]) / self.spec.stride_s) + 1 if len(video.start_s) else 0
        scores = ClassScores(times, len(stream.names), clips, self.grid, self.recipe.decode, located=self.model.located)
        stream.class_scores = scores
        return _whole(stream, video), scores.result()

    def stream(
        self,
        duration: float | None = None,
        *,
        video_id: str = "stream",
        min_score: float = 0.0,
        coarse: bool = False,
    ) -> Stream:
        """Localize a video while it comes in; the arguments are those of :meth:`localize`.

        Raises:
            InputError: a duration that is none; ``coarse`` without coarse labels.
        """
        names, merge = self.class_names(coarse), None
        if coarse:
            merge = np.array([names.index(self.labels.to_coarse.get(label, label)) for label in self.labels.labels])
        return Stream(
            self.model,
            self.projection,
            self.recipe,
            names,
            tags=self.tags,
            merge=merge,
            video_id=video_id,
            duration=duration,
            min_score=min_score,
        )

    def sooner(self, delay_s: float) -> "Localizer":
        """The same model, deciding sooner: a stream's final detections come ``delay_s`` behind, or as near as can be.

        It decodes by shorter windows and blocks, so it may find other steps than this one, less surely; whole videos
        it decodes just so. One that is quick enough, or whose boundaries are fractions of a window, stays as it is.
        """
        if self.stream().delay_s <= delay_s or not self.model.located:
            return self
        decode = shortened(self.recipe, self.model.configs, self.grid, self.spec, delay_s)
        return replace(self, recipe=self.recipe.model_copy(update={"decode": decode}))

    def class_names(self, coarse: bool = False) -> tuple[str, ...]:
        """The labels in the order of class ids; the coarse ones in the order in which the fine ones name them.

        Raises:
            InputError: ``coarse``, but the label set has no coarse names.
        """
        if not coarse:
            return self.labels.labels
        if not self.labels.to_coarse:
            expected = "labels that have coarse names"
            raise InputError(f"bundle {self.name}", expected=expected, found=f"label set {self.labels.name}")
        # A class that has no coarse name is its own.
        return tuple(dict.fromkeys(self.labels.to_coarse.get(label, label) for label in self.labels.labels))

    def with_temperature(self, temperature: float) -> "Localizer":
        """The same, but for how sure its scores sound."""
        decode = self.recipe.decode.model_copy(update={"temperature": temperature})
        return replace(self, recipe=self.recipe.model_copy(update={"decode": decode}))

    def to(self, device: torch.device | str) -> "Localizer":
        """Move the model to a device."""
        self.model.to(device)
        return self

    def save(self, folder: str) -> None:
        """Write the bundle; ``bundle.json`` comes last, so that a folder with one is whole."""
        weights = {name: value.cpu().contiguous() for name, value in self.model.state_dict().items()}
        files.write_bytes(files.join(folder, MODEL_FILE), safetensors.torch.save(weights))
        self.projection.save(folder)
        files.write_bytes(files.join(folder, CARD), self._card().encode())
        manifest = {"format": FORMAT, "name": self.name, "digest": self.digest, **self._decisive(), "about": self.about}
        files.write_json(files.join(folder, MANIFEST), manifest)

    @classmethod
    def load(cls, folder: str, device: torch.device | str = "cpu") -> "Localizer":
        """Read a bundle.

        Raises:
            InputError: a part is missing, damaged, of another format, or was changed since (digest).
        """
        where = files.join(folder, MANIFEST)
        manifest = files.read_json(where)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format", "no format") if isinstance(manifest, dict) else "no object"
            raise InputError(where, expected=f"a bundle of format {FORMAT}", found=str(found))
        try:
            recipe = Recipe.model_validate(manifest["recipe"])
            labels = LabelSet.from_dict(manifest["labels"])
            spec = FeatureSpec.from_dict(manifest["spec"], where=where)
            projection = Projection.load(folder)
            projection.spec.require(spec, mine=files.join(folder, PROJECTION_FILE), others=where)
            weights = safetensors.torch.load(files.read_bytes(files.join(folder, MODEL_FILE)))
            members = tuple(Recipe.model_validate(member) for member in manifest.get("members", ()))
            num_tags = len(labels.tags) if any(name.endswith("tag_head.weight") for name in weights) else 0
            models = [TemporalModel(r.model, projection.dim, len(labels), num_tags) for r in members or (recipe,)]
            model = Ensemble(models) if members else models[0]
            model.load_state_dict(weights)
            name, digest, about = str(manifest["name"]), str(manifest["digest"]), dict(manifest["about"])
        except (KeyError, TypeError, ValueError) as error:  # pydantic's is a ValueError
            message = " ".join(repr(error).split())[:200]
            raise InputError(where, expected="the fields of a bundle", found=message) from None
        except (SafetensorError, RuntimeError) as error:
            message = " ".join(str(error).split())[:200]
            raise InputError(files.join(folder, MODEL_FILE), expected="this bundle's weights", found=message) from None
        localizer = cls(name, labels, projection, recipe, model.to(device).eval(), about, members)
        if localizer.digest != digest:
            raise InputError(where, expected=f"content of digest {digest[:12]}", found=localizer.digest[:12])
        return localizer

    def _decisive(self) -> dict[str, Any]:
        return {
            "labels": self.labels.to_dict(),
            "spec": self.spec.to_dict(),
            "recipe": self.recipe.model_dump(mode="json"),
            **({"members": [recipe.model_dump(mode="json") for recipe in self.members]} if self.members else {}),
        }

    def _card(self) -> str:
        tags = f", and the tags {', '.join(self.tags)}," if self.tags else ""
        facts = "\n".join(f"- **{name}**: {json.dumps(value)}" for name, value in self.about.items())
        return (
            f"# {self.name}\n\nA balletal bundle: finds {len(self.labels)} classes ({self.labels.name}){tags} in "
            f"features of spec {self.spec}.\n\nDigest {self.digest}\n\n{facts}\n"
        )


def _whole(stream: Stream, video: VideoFeatures, top_k: int | None = None) -> pd.DataFrame:
    """What a stream that is fed a whole video gives."""
    parts = [stream.push(video.features, video.start_s), stream.finish()]
    table = pd.concat([part for part in parts if len(part)] or parts[:1]).drop(columns="id")
    if top_k is not None:
        table = table.nlargest(top_k, "score")
    return table.sort_values(["start", "score"], ascending=[True, False], ignore_index=True)


def localize_videos(
    localizer: Localizer, videos: Iterable[VideoFeatures], durations: Mapping[str, float]
) -> pd.DataFrame:
    """Detections of several videos in one table, video after video.

    Args:
        durations: seconds, of every one of ``videos``.

    Raises:
        InputError: as :meth:`Localizer.localize`.
    """
    tables = [localizer.localize(video, duration=durations[video.video_id]) for video in videos]
    return pd.concat(tables or [segment_table(score=())], ignore_index=True)
