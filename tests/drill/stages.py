"""The stages that the drill disturbs: their commands, how far they are, and what they leave."""

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray

from balletal import files
from balletal.backbones.i3d import InceptionI3D
from balletal.backbones.spec import FeatureSpec
from balletal.features.extractor import spec_for
from balletal.features.store import FeatureStore
from balletal.projection import Projection
from balletal.synthetic.card import dataset_card
from balletal.synthetic.corpus import write_annotations, write_video
from balletal.synthetic.presets import PRESETS
from tests.drill import alone

SECONDS, SIZE = 4.0, (96, 64)


@dataclass
class Result:
    """What a stage left: how often each row is there, and numbers by name."""

    keys: Counter[Any] = field(default_factory=Counter)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)

    def difference(self, other: "Result") -> float:
        """The largest between two numbers; infinite where there are others."""
        if self.values.keys() != other.values.keys():
            return float("inf")
        pairs = [(value, other.values[name]) for name, value in self.values.items()]
        if any(one.shape != another.shape for one, another in pairs):
            return float("inf")
        return max((float(np.abs(one - another).max()) for one, another in pairs if one.size), default=0.0)


@dataclass(frozen=True)
class Stage:
    """A workflow that is submitted.

    Attributes:
        words: the command, for the folder that it writes into.
        done: how much of it is in the bucket; grows.
        read: its result.
        works: what the processes that do its work call themselves.
        alone: does the same in this process, without Ray, into a folder.
        divided: whether its workers together make something else than one alone, so that an undisturbed run of it tells
            what faults change.
    """

    name: str
    words: Callable[[str], list[str]]
    done: Callable[[str], int]
    read: Callable[[str], Result]
    works: str
    alone: Callable[[str], None]
    divided: bool = False


class Corpus:
    """Short videos with annotations in a bucket, features enough for a fit that takes its time, and random weights."""

    def __init__(self, bucket: str, folder: Path, videos: int) -> None:
        torch.manual_seed(0)
        weights = {key: value.contiguous() for key, value in InceptionI3D(num_classes=0).state_dict().items()}
        self.weights = str(folder / "i3d.safetensors")
        safetensors.torch.save_file(weights, self.weights)
        self.spec: FeatureSpec = spec_for("i3d-rgb", weights=self.weights, **_SPEC, dtype="float32")
        self.uri, self.features, self.videos = files.join(bucket, "corpus"), files.join(bucket, "many"), videos
        records = [write_video(self.uri, i, 1, SECONDS, PRESETS["easy"], SIZE) for i in range(videos)]
        card = dataset_card(records, seed=1, seconds=SECONDS, preset="easy", size=SIZE)
        write_annotations(self.uri, records, card)

    def write_features(self, videos: int = 12, rows: int = 1500) -> None:
        """A store of random features."""
        store, random = FeatureStore.create(self.features, self.spec), np.random.default_rng(0)
        for i in range(videos):
            store.write_unit(f"v{i:02d}", 0, 0, random.normal(0, 1, (rows, self.spec.dim)).astype(np.float32))

    def stages(self, reference: str) -> list[Stage]:
        """In their order. Each takes what it needs from what ``alone`` of those before it wrote below ``reference``."""
        videos, annotations = f"{self.uri}/videos", f"{self.uri}/annotations.json"
        store, projection = f"{reference}/extract/store", f"{reference}/fit-projection"
        options = [word for name, value in _SPEC.items() for word in (f"--{name}", str(value))]
        extract = ["extract", "--videos", videos, "--backbone", "i3d-rgb", "--weights", self.weights, *options]
        extract += ["--dtype", "float32", "--actors", "3", "--json"]
        fit = ["fit-projection", "--store", self.features, "--dim", str(_DIM), "--workers", "2"]
        train = ["train", "--store", store, "--annotations", annotations, "--projection", projection]
        train += ["--model", "cnn", "--workers", "2", *(word for value in _TRAINING for word in ("--set", value))]
        score = ["score", "--bundle", f"{reference}/train/bundle", "--videos", videos, "--weights", self.weights]

        def store_of(out: str) -> str:
            return f"{out}/store"

        return [
            Stage(
                "extract",
                lambda out: [*extract, "--store", store_of(out)],
                _units,
                _features,
                "Backbone",
                lambda out: alone.extract(videos, store_of(out), self.spec, self.weights),
            ),
            Stage(
                "fit-projection",
                lambda out: [*fit, "--out", out],
                _fitted,
                _projection,
                "RayTrainWorker",
                lambda out: alone.fit_projection(self.features, out, _DIM),
            ),
            Stage(
                "train",
                lambda out: [*train, "--out", out],
                _epochs,
                _model,
                "RayTrainWorker",
                lambda out: alone.train_model(store, annotations, projection, out, _TRAINING),
                divided=True,  # each norms its own part of a batch
            ),
            Stage(
                "score",
                lambda out: [*score, "--out", out],
                _scored,
                _detections,
                "Backbone|Localize",
                lambda out: alone.score(f"{reference}/train/bundle", store, videos, out),
            ),
        ]


# One feature a second: as little work as a network of this size can be given.
_SPEC: dict[str, Any] = {"fps": 8, "window": 8, "stride": 8, "mode": "windowed", "crop": "center"}
_DIM = 8
_TRAINING = ["model.hidden=16", "model.dropout=0", "optim.epochs=30", "optim.checkpoint_epochs=1"]


def _units(out: str) -> int:
    folder = f"{out}/store/features"
    return len(files.list_files(folder, (".parquet",))) if files.exists(folder) else 0


def _features(out: str) -> Result:
    tables = [_parquet(uri) for uri in files.list_files(f"{out}/store/features", (".parquet",))]
    table = pd.concat(tables).sort_values(["video_id", "segment", "clip"])
    keys = list(zip(table["video_id"].astype(str), table["segment"], table["clip"], strict=True))
    return Result(Counter(keys), {"features": np.stack(table["feature"].to_list())})


def _fitted(out: str) -> int:
    return int(files.exists(f"{out}/projection.safetensors"))


def _projection(out: str) -> Result:
    fitted = Projection.load(out)
    arrays = {name: getattr(fitted, name) for name in ("mean", "scale", "components", "explained_variance")}
    return Result(Counter({"row": fitted.rows}), arrays)


def _epochs(out: str) -> int:
    return len(_losses(out)) if files.exists(f"{out}/losses.csv") else 0


def _losses(out: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(files.read_bytes(f"{out}/losses.csv")))


def _model(out: str) -> Result:
    losses, metrics = _losses(out), files.read_json(f"{out}/metrics.json")
    weights = safetensors.numpy.load(files.read_bytes(f"{out}/bundle/model.safetensors"))
    mean_ap = {"average mAP": np.array(metrics["detection"]["average_map"])}
    curves = {"losses": losses.drop(columns="seconds").to_numpy(float)}
    return Result(Counter(losses["epoch"].astype(int)), weights | mean_ap | curves)


def _scored(out: str) -> int:
    return _units(out) + files.exists(f"{out}/run.json")


def _detections(out: str) -> Result:
    table = _parquet(f"{out}/detections.parquet")
    keys = zip(table["video_id"], table["label"], table["start"], table["end"], strict=True)
    return Result(Counter(keys), {"scores": table["score"].to_numpy()})


def _parquet(uri: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(files.read_bytes(uri)))
