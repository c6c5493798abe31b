"""One worker's part of a training run: plain torch, alone or under ``torch.distributed``.

Every worker walks the same seeded order of videos and takes its share of each global batch; losses are divided by the
global count of positives. So the gradient of a step is that of the whole batch, whatever the number of workers (the
statistics of batch normalisation and the dropout masks differ).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from balletal.backbones.spec import FeatureSpec
from balletal.errors import DivergedError, InputError
from balletal.tal.augment import augmented
from balletal.tal.config import OptimConfig, Recipe
from balletal.tal.losses import localize_loss, paper_loss
from balletal.tal.models import Outputs, TemporalModel
from balletal.tal.sequences import Grid, LabelledSequence, collate
from balletal.tal.targets import Targets, duration_edges, localize_targets, paper_targets
from balletal.tal.windows import Windows


class Training:
    """Model, optimiser, schedule and running averages of one run; :meth:`state` holds all that a resume needs.

    Args:
        recipe: what to train and how.
        spec: feature spec of the sequences (for the time grid).
        in_dim: K, length of a projected feature.
        num_classes: C.
        num_tags: G; 0 for a recipe whose boundaries are fractions, whatever is given.
        steps_per_epoch: from :func:`steps_per_epoch`, for the schedule.
        weights: to begin with, by the model's names; what is not among them begins at random.
    """

    def __init__(
        self,
        recipe: Recipe,
        spec: FeatureSpec,
        *,
        in_dim: int,
        num_classes: int,
        num_tags: int = 0,
        steps_per_epoch: int,
        device: torch.device | str = "cpu",
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        Windows.of(recipe)  # a recipe that could not be used is refused before it is trained
        torch.manual_seed(recipe.seed)  # all workers begin with the same weights
        self.recipe, self.device = recipe, torch.device(device)
        self.grid = Grid.of(spec, recipe.model.upsample)
        self.num_classes = num_classes
        self.model = TemporalModel(recipe.model, in_dim, num_classes, num_tags).to(self.device)
        self.terms = ("class", "boundary", "quality", *(("tag",) if self.model.num_tags else ()), "total")
        self.model.load_state_dict(weights or {}, strict=False)
        self.parallel: nn.Module = DistributedDataParallel(self.model) if _world_size() > 1 else self.model
        self.averaged = AveragedModel(self.model, avg_fn=_ema(recipe.optim.ema), use_buffers=True)
        self.optimizer = _optimizer(self.model, recipe.optim)
        self.scheduler = _scheduler(self.optimizer, recipe.optim, steps_per_epoch)
        # Seconds at which one level of the pyramid hands over to the next, from the first epoch's data.
        self.edges: list[float] | None = None
        # Of positives in a global batch; an average over batches, so that a batch of few positives does not shout.
        self.normalizer = 0.0
        self.epoch = 0
        self.history: list[dict[str, float]] = []

    def train_epoch(self, data: Sequence[LabelledSequence]) -> dict[str, float]:
        """One pass over the training videos; returns the mean of each loss a positive step."""
        optim = self.recipe.optim
        rng = np.random.default_rng([self.recipe.seed, self.epoch])
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.epoch * 1009 + _rank())  # dropout, also after a resume
        if self.edges is None:
            levels = self.recipe.model.levels
            durations = [np.diff(data[i].segments, axis=1)[:, 0] for i in range(len(data))] if levels > 1 else []
            self.edges = duration_edges(np.concatenate([np.zeros(0), *durations]), levels)
        self.parallel.train()
        sums = torch.zeros(len(self.terms) + 1, dtype=torch.float64)
        order = rng.permutation(len(data))
        for batch in np.array_split(order, steps_per_epoch(len(data), optim)):
            mine = batch[_rank() :: _world_size()]
            videos = [augmented(data[int(i)], self.grid, self.recipe, self._rng(int(i))) for i in mine]
            losses, positives = self._losses(self.parallel, videos)
            count = max(1.0, float(self._global_sum(torch.tensor(positives, dtype=torch.float64))))
            keep = optim.normalizer_momentum if self.normalizer else 0.0
            self.normalizer = keep * self.normalizer + (1 - keep) * count
            # DistributedDataParallel averages gradients over workers; the sum is wanted.
            loss = losses["total"] * _world_size() / self.normalizer
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_norm)
            if not torch.isfinite(norm):  # of the averaged gradient, so that every worker stops here
                raise DivergedError(f"the gradient became {norm} in epoch {self.epoch + 1}; a lower optim.lr may help")
            self.optimizer.step()
            self.averaged.update_parameters(self.model)
            if isinstance(self.scheduler, torch.optim.lr_scheduler.LambdaLR):
                self.scheduler.step()
            sums += self._row(losses, positives)
        self.epoch += 1
        return self._means(sums)

    def _rng(self, video: int) -> np.random.Generator:
        """Of a video in an epoch, whichever worker sees it."""
        return np.random.default_rng([self.recipe.seed, self.epoch, video])

    @torch.no_grad()
    def validate(self, data: Sequence[LabelledSequence]) -> dict[str, float]:
        """Losses of the averaged model on validation videos, and the plateau schedule's step."""
        self.averaged.eval()
        sums = torch.zeros(len(self.terms) + 1, dtype=torch.float64)
        for i in range(_rank(), len(data), _world_size()):
            losses, positives = self._losses(self.averaged, [data[i]])
            sums += self._row(losses, positives)
        means = self._means(sums)
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(means["total"])
        return means

    def _losses(self, model: nn.Module, videos: list[LabelledSequence]) -> tuple[dict[str, Tensor], int]:
        """Sums of the losses of some videos, and their count of positive steps."""
        features, mask = collate(videos)
        outputs: Outputs = model(features.to(self.device), mask.to(self.device))
        targets = self._targets(videos, outputs)
        parts = (targets.classes, targets.boundaries, targets.tags, targets.positive)
        targets = Targets(*(part.to(self.device) for part in parts))
        targets = replace(targets, positive=targets.positive & outputs.mask)
        if self.recipe.model.boundary == "fraction":
            losses = paper_loss(outputs, targets)
        else:
            config = self.recipe.loss
            losses = localize_loss(
                outputs,
                targets,
                alpha=config.focal_alpha,
                gamma=config.focal_gamma,
                quality_weight=config.quality_weight,
                boundary_weight=config.boundary_weight,
                tag_weight=config.tag_weight,
            )
        return losses, int(targets.positive.sum())

    def _targets(self, videos: list[LabelledSequence], outputs: Outputs) -> Targets:
        config, model = self.recipe.loss, self.recipe.model
        if model.boundary == "fraction":
            steps = outputs.mask.shape[1]
            return paper_targets(videos, self.grid, steps, self.num_classes, unit=config.boundary_unit)
        return localize_targets(
            videos,
            self.grid,
            model.upsample,
            self.num_classes,
            at=outputs.at.cpu().numpy(),
            stride=outputs.stride.cpu().numpy(),
            radius=config.center_radius,
            edges=self.edges or (),
        )

    def _row(self, losses: dict[str, Tensor], positives: int) -> Tensor:
        return torch.tensor([*(float(losses[name].detach()) for name in self.terms), positives], dtype=torch.float64)

    def _means(self, sums: Tensor) -> dict[str, float]:
        """Of all workers' rows: each loss a positive step."""
        *losses, positives = self._global_sum(sums).tolist()
        return {name: loss / max(1.0, positives) for name, loss in zip(self.terms, losses, strict=True)}

    def _global_sum(self, value: Tensor) -> Tensor:
        """The sum over workers, made where their collective operations work (NCCL: on the GPU)."""
        if _world_size() == 1:
            return value
        value = value.to(self.device)
        dist.all_reduce(value)
        return value.cpu()

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs to go on as if it had not stopped."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "normalizer": self.normalizer,
            "epoch": self.epoch,
            "edges": self.edges,
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for name in ("model", "averaged", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("normalizer", "epoch", "edges", "history"):
            setattr(self, name, state[name])


def steps_per_epoch(videos: int, optim: OptimConfig) -> int:
    """Global batches in an epoch.

    Raises:
        InputError: fewer training videos than workers, or none.
    """
    if videos < max(1, _world_size()):
        raise InputError(
            "training videos", expected=f"at least one for each of {_world_size()} workers", found=str(videos)
        )
    return min(-(-videos // optim.batch_size), videos // _world_size())


def _optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels alone, not on biases and norms."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer](groups, lr=config.lr)


def _scheduler(
    optimizer: torch.optim.Optimizer, config: OptimConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR | torch.optim.lr_scheduler.ReduceLROnPlateau:
    if config.scheduler == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    warmup, total = config.warmup_epochs * steps, config.epochs * steps

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        fall = 0.5 + 0.5 * np.cos(np.pi * min(1.0, step / total)) if config.scheduler == "cosine" else 1.0
        return float(rise * fall)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _ema(decay: float):  # type: ignore[no-untyped-def]
    def average(old: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
        # Young averages follow the weights closely, else the first random ones would weigh for long.
        d = min(decay, (1 + int(n)) / (10 + int(n)))
        return (d * old + (1 - d) * new).to(old.dtype)

    return average


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
