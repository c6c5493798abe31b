"""Several models that answer as one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from balletal.errors import InputError
from balletal.tal.config import ModelConfig
from balletal.tal.models import Outputs, TemporalModel


def check_members(where: str, configs: Mapping[str, ModelConfig]) -> None:
    """See that models can answer as one, before any of them is made.

    Args:
        where: what is made of them, for the message.
        configs: of the members, by their names.

    Raises:
        InputError: one says boundaries as fractions; two answer at other points.
    """
    points = {name: f"upsample {config.upsample}, levels {config.levels}" for name, config in configs.items()}
    expected = next(iter(points.values()), "")
    for name, config in configs.items():
        if config.boundary == "fraction":
            raise InputError(f"{where}, {name}", expected="distances as boundaries", found="fractions")
        if points[name] != expected:
            raise InputError(f"{where}, {name}", expected=expected, found=points[name])


class Ensemble(nn.Module):
    """The mean of what several models say at each point: of their logits and of their distances.

    On little data models differ by their seeds nearly as much as by their kinds, and what they get wrong they get
    wrong differently: the mean is better than the best of them (see docs/evaluation.md).

    Args:
        members: models of one input, of the same classes and tags, that answer at the same points.

    Raises:
        InputError: none; one that says boundaries as fractions; two that do not fit together.
    """

    def __init__(self, members: Sequence[TemporalModel]) -> None:
        super().__init__()
        if not members:
            raise InputError("ensemble", expected="at least one model", found="none")
        check_members("ensemble", {f"member {i + 1}": member.config for i, member in enumerate(members)})
        for i, member in enumerate(members):
            if _shape(member) != _shape(members[0]):
                raise InputError(f"ensemble, member {i + 1}", expected=_shape(members[0]), found=_shape(member))
        self.members = nn.ModuleList(members)
        self.configs: tuple[ModelConfig, ...] = tuple(member.config for member in members)
        self.num_tags, self.num_classes, self.located = members[0].num_tags, members[0].num_classes, True

    def forward(self, features: Tensor, mask: Tensor) -> Outputs:
        """As :meth:`balletal.tal.models.TemporalModel.forward`."""
        said = [member(features, mask) for member in self.members]
        means = {
            part: torch.stack([getattr(outputs, part) for outputs in said]).mean(0)
            for part in ("classes", "boundaries", "quality", "tags")
        }
        return said[0]._replace(**means)


def _shape(model: TemporalModel) -> str:
    return f"{model.in_dim} components, {model.num_classes} classes, {model.num_tags} tags"
