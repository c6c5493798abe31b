"""Join several trained models into one bundle that answers with their mean, measured like one of them."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from balletal import files
from balletal.errors import InputError
from balletal.features.store import FeatureStore
from balletal.tal.localizer import Localizer
from workflows.config import claim
from workflows.console import print_json, run, say
from workflows.measured import write_run


def ensemble(
    store: FeatureStore, runs: Sequence[str], out: str, *, name: str, model: str = "", features: str = ""
) -> dict[str, Any]:
    """Join the bundles of finished runs that held out the same videos, and measure the result on these.

    Args:
        store: what the runs were trained on.
        runs: their folders.
        out: folder for the result, of the form that a training run leaves; a finished one is returned as it is.
        model: what tables call it; default: ``name``.
        features: name of the features, where a comparison has several kinds.

    Returns:
        what `metrics.json` holds.

    Raises:
        InputError: a run that is not finished; runs that held out other videos, so that one has learnt what another is
            measured on; models that do not fit together; ``out`` holds another result.
    """
    metrics = [_metrics(folder) for folder in runs]
    joined = Localizer.joined(name, [Localizer.load(files.join(folder, "bundle")) for folder in runs])
    store.spec.require(joined.spec, mine=f"store {store.uri}", others=f"bundle {joined.name}")
    held_out = [files.read_json(files.join(folder, "split.json")) for folder in runs]
    for folder, split in zip(runs, held_out, strict=True):
        if split != held_out[0]:
            raise InputError(folder, expected=f"the split of {runs[0]}", found="another one")
    claim(out, {"name": name, "members": joined.about["members"]})
    if files.exists(files.join(out, "metrics.json")):
        return cast(dict[str, Any], files.read_json(files.join(out, "metrics.json")))
    facts = {
        "features": features,
        "model": model or name,
        "recipe": "ensemble",
        "seed": metrics[0]["seed"],
        "losses": {},
        "members": [one["name"] for one in metrics],
        "train_seconds": round(sum(one["train_seconds"] for one in metrics), 1),
    }
    return write_run(joined, store, runs[0], out, facts=facts, data=metrics[0]["data"])


def _metrics(folder: str) -> dict[str, Any]:
    uri = files.join(folder, "metrics.json")
    if not files.exists(uri):
        raise InputError(folder, expected="a finished run of `balletal train`", found="no metrics.json")
    return cast(dict[str, Any], files.read_json(uri))


def main(
    runs: Annotated[list[str], typer.Argument(help="Folders of finished runs, of the same split and projection.")],
    store: Annotated[str, typer.Option(help="Feature store that they were trained on.")],
    out: Annotated[str, typer.Option(help="Folder for the result, with its bundle.")],
    name: Annotated[str, typer.Option(help="What the bundle is called.")] = "ensemble",
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Join several trained models into one that answers with their mean."""
    spec = Localizer.load(files.join(runs[0], "bundle")).spec
    opened = FeatureStore.open_for(store, spec, owner=f"run {runs[0]}")
    metrics = ensemble(opened, runs, out, name=name)
    if as_json:
        print_json(metrics)
    else:
        each = ", ".join(f"{_metrics(one)['detection']['average_map']:.3f}" for one in runs)
        say(f"{name}: average mAP {metrics['detection']['average_map']:.3f} ({each} alone) -> {out}")


if __name__ == "__main__":
    run(main)
