"""Label sets: the classes that annotations, models and detections speak of."""

from dataclasses import dataclass
from functools import cached_property

import schemas
from balletal.errors import InputError


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of class names; a class's id is the one that its dataset published.

    Attributes:
        name: such as ``annchor-coarse``.
        labels: class names in id order; index = class id of models.
        tags: names that annotations may carry beside a step (``Backwards``); no class, but a model may say which of
            them go with a step.
        coarse: for a fine set, fine name -> name in the set ``coarse_set``; else empty.
    """

    name: str
    labels: tuple[str, ...]
    tags: tuple[str, ...] = ()
    coarse_set: str | None = None
    coarse: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, name: str) -> "LabelSet":
        """A shipped label set by name, or one from a JSON file of the same form.

        Raises:
            InputError: unknown name or malformed file.
        """
        try:
            data = schemas.label_set(name)
            found = None if data is None else cls.from_dict(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(name, expected='a label set {"name", "labels": [{"id", "name"}]}', found=reason) from None
        if found is None:
            raise InputError(
                f"label set {name!r}",
                expected=f"one of {', '.join(schemas.label_set_names())} or a JSON file",
                found="neither",
            )
        return found

    @classmethod
    def from_dict(cls, data: dict) -> "LabelSet":
        options = sorted(data["labels"], key=lambda option: option["id"])
        steps = [option for option in options if not option.get("tag", False)]
        return cls(
            name=data["name"],
            labels=tuple(option["name"] for option in steps),
            tags=tuple(option["name"] for option in options if option.get("tag", False)),
            coarse_set=data.get("coarse_set"),
            coarse=tuple((option["name"], option["coarse"]) for option in steps if "coarse" in option),
        )

    def to_dict(self) -> dict:
        """The JSON form that :meth:`from_dict` reads; ids are positions."""
        coarse = dict(self.coarse)
        options: list[dict] = [
            {"id": i, "name": name} | ({"coarse": coarse[name]} if name in coarse else {})
            for i, name in enumerate(self.labels)
        ]
        options += [{"id": len(self.labels) + i, "name": name, "tag": True} for i, name in enumerate(self.tags)]
        return {"name": self.name, "labels": options} | ({"coarse_set": self.coarse_set} if self.coarse_set else {})

    @cached_property
    def index(self) -> dict[str, int]:
        """Class name -> class id."""
        return {name: i for i, name in enumerate(self.labels)}

    @cached_property
    def to_coarse(self) -> dict[str, str]:
        """Fine name -> coarse name; empty for a set that has no coarser one."""
        return dict(self.coarse)

    @cached_property
    def mirrored(self) -> dict[str, str]:
        """Name -> name of the same step on the other side, of the labels that end in ``Right`` or ``Left``.

        Empty for a set that does not tell sides.
        """
        swapped = {
            name: name.removesuffix(side) + other
            for name in self.labels
            for side, other in (("Right", "Left"), ("Left", "Right"))
            if name.endswith(side)
        }
        return {name: other for name, other in swapped.items() if other in self.index}

    def __len__(self) -> int:
        return len(self.labels)
