"""The whole job from one file: features -> projection -> models -> comparison -> report.

Each stage keeps its own record of what is done, so the same command again continues where the last one stopped.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field, model_validator

from balletal import files
from balletal.annotations import Split, load_split, save_split
from balletal.backbones.spec import Crop, FeatureSpec
from balletal.errors import InputError
from balletal.features.extractor import Dtype, spec_for
from balletal.features.store import FeatureStore
from balletal.projection import FILE as PROJECTION_FILE
from balletal.projection import Projection
from workflows.cluster import ray_session
from workflows.compare import compare
from workflows.comparison_config import ComparisonConfig
from workflows.comparison_data import Cell, draw_split
from workflows.comparison_results import show
from workflows.config import claim, read_yaml, validated, with_settings
from workflows.console import SOME_VIDEOS_FAILED, finish, print_json, run, say
from workflows.extract import extract
from workflows.fit_projection import fit_projection
from workflows.import_features import import_features
from workflows.report import report


class FeaturesConfig(BaseModel):
    """Where features come from: videos through a backbone, or a folder of released `.npy` files."""

    model_config = ConfigDict(extra="forbid")

    videos: str | None = None
    released: str | None = None
    backbone: str = "i3d-rgb-kinetics400"
    weights: str | list[str] | None = None
    fps: float = Field(25.0, gt=0)
    window: int = Field(16, gt=0)
    stride: int = Field(8, gt=0)
    mode: Literal["windowed", "dense"] = "windowed"
    crop: Crop = "dancer"
    flow: str = "dis"
    dtype: Dtype = "bfloat16"
    dim: int = Field(2048, gt=0, description="length of a released feature")

    @model_validator(mode="after")
    def _one_source(self) -> "FeaturesConfig":
        if (self.videos is None) == (self.released is None):
            raise ValueError("name one of videos and released")
        return self


class ProjectionConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dim: int = Field(512, gt=0)
    workers: int | None = None


class PipelineConfig(ComparisonConfig):
    """Everything from features to report."""

    features: FeaturesConfig
    store: str | None = None  # default: <out>/store
    projection: ProjectionConfig = ProjectionConfig()

    @model_validator(mode="after")
    def _one_split(self) -> "PipelineConfig":
        if self.split.folds:
            raise ValueError("folds are for `balletal compare`, on the store that a pipeline made")
        return self


def pipeline(config: PipelineConfig, address: str | None = None) -> dict[str, Any]:
    """Run all stages and write `run.json` with the seconds of each.

    Returns:
        ``{"stages": {name: seconds}, "features": summary, "projection": summary, "report": path}`` and the results of
        :func:`workflows.compare.compare`.

    Raises:
        InputError: ``config.out`` holds a run of another configuration; whatever a stage raises.
    """
    out = config.out
    claim(out, config.model_dump(mode="json", exclude={"out"}))
    stages: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        say(f"[{len(stages) + 1}/5] {name}")
        started = time.monotonic()
        yield
        stages[name] = round(time.monotonic() - started, 1)
        say(f"[{len(stages)}/5] {name}: {stages[name]:.1f} s")

    with ray_session(address):
        with stage("features"):
            features, store = _features(config)
        with stage("split"):
            split = _split(config, store)
        with stage("projection"):
            folder = files.join(out, "projection")
            fitted: dict[str, Any] = {}
            if not files.exists(files.join(folder, PROJECTION_FILE)):
                # On the training videos alone: a projection must not see what the models are measured on.
                training = [v for v in split.video_ids("training") if v in set(store.video_ids())]
                fitted = fit_projection(
                    store.uri,
                    folder,
                    dim=config.projection.dim,
                    spec_id=store.spec.spec_id,
                    video_ids=training,
                    workers=config.projection.workers,
                )
            projection = Projection.load(folder)
        with stage("models"):
            results = compare(config, [Cell("", None, store, projection, split, files.absolute(out))])
    with stage("report"):
        written = report(out)
    summary = {"stages": stages, "features": features, "projection": fitted, "report": written}
    files.write_json(files.join(out, "run.json"), summary)
    return summary | results


def _split(config: PipelineConfig, store: FeatureStore) -> Split:
    """The split of the first run: a video that comes later must not move others to another subset."""
    uri = files.join(config.out, "split.json")
    if not files.exists(uri):
        split = draw_split(config, store)
        save_split(uri, split)
        return split
    split = load_split(uri)
    new = set(store.video_ids()) - set(split.videos)
    if new:
        say(f"{len(new)} videos are not in {uri}, or not annotated; they take no part")
    return split


def _features(config: PipelineConfig) -> tuple[dict[str, Any], FeatureStore]:
    source, uri = config.features, config.store or files.join(config.out, "store")
    if source.released is not None:
        summary = import_features(
            source.released, uri, fps=source.fps, window=source.window, stride=source.stride, dim=source.dim
        )
    else:
        assert source.videos is not None
        spec: FeatureSpec = spec_for(
            source.backbone,
            weights=source.weights,
            fps=source.fps,
            window=source.window,
            stride=source.stride,
            mode=source.mode,
            crop=source.crop,
            dtype=source.dtype,
            flow=source.flow,
        )
        summary = extract(source.videos, uri, spec=spec, weights=source.weights, flow=source.flow)
    store = FeatureStore.open(uri, summary["spec"])
    if not store.video_ids():
        raise InputError(f"store {uri}", expected="features of a video", found=f"none; balletal errors --store {uri}")
    return summary, store


def main(
    config: Annotated[str, typer.Argument(help="YAML file; workflows/configs/ has examples.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.key=value over the file.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary and all metrics as JSON.")] = False,
) -> None:
    """Run everything from one file: features, projection, models, comparison, report."""
    resolved = validated(PipelineConfig, with_settings(read_yaml(config), settings or []), where=config)
    summary = pipeline(resolved, address)
    if as_json:
        print_json(summary)
    else:
        show(summary["runs"], summary["oracle"], str(resolved.split))
        best = max(summary["runs"], key=lambda run: run["detection"]["average_map"])
        say("stages: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary["stages"].items()))
        say(f"report: {summary['report']}")
        say(f"serve the best: balletal serve --bundle {files.join(resolved.out, 'runs', best['name'], 'bundle')}")
    if summary["features"].get("videos_failed") or summary["features"].get("failed"):
        say(f"some videos failed: balletal errors --store {resolved.store or files.join(resolved.out, 'store')}")
        finish(SOME_VIDEOS_FAILED)


if __name__ == "__main__":
    run(main)
