"""Several models that answer as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from balletal.errors import InputError
from balletal.tal.config import ModelConfig
from balletal.tal.models import Outputs, TemporalModel


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
        for i, member in enumerate(members):
            if not member.located:
                raise InputError(f"ensemble, member {i + 1}", expected="distances as boundaries", found="fractions")
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
    config = model.config
    return (
        f"{model.in_dim} components, {model.num_classes} classes, {model.num_tags} tags, upsample {config.upsample}, "
        f"levels {config.levels}"
    )
