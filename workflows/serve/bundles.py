"""The bundles that are served together: loaded, told apart, each with the weights of its backbone."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import cast

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.backbones.weights import digest, load_state
from balletal.errors import InputError
from balletal.features.extractor import Extractor, Weights
from balletal.tal.localizer import Localizer
from workflows.serve.backend import Model
from workflows.serve.runner import Bundle

# What may stand in a path of a URL, with an @ between name and version.
_NAME = re.compile(r"[\w.+-]{1,100}", re.ASCII)


def load_bundles(folders: Sequence[str], weights: Weights = None, flow: str | None = None) -> list[Localizer]:
    """Bundles that can be served together.

    Raises:
        InputError: no bundle; two of one name and version; a name that is none in a URL; features that cannot be made
            from video, or not with these weights.
        SpecMismatchError: the weights, or the flow, are not the ones of a bundle.
    """
    if not folders:
        raise InputError("bundles", expected="at least one", found="none")
    bundles = [Localizer.load(folder) for folder in folders]
    seen: dict[str, str] = {}
    for folder, model in zip(folders, map(Model.of, bundles), strict=True):
        if not (_NAME.fullmatch(model.name) and _NAME.fullmatch(model.version)):
            raise InputError(folder, expected="a name and a version of letters, digits and ._+-", found=model.id)
        if model.id in seen:
            raise InputError(folder, expected="a bundle of another version", found=f"{model.id} as in {seen[model.id]}")
        seen[model.id] = folder
    for spec in dict.fromkeys(one.spec for one in bundles):
        # Here, because what is wrong would be a replica's log otherwise.
        Extractor(spec, weights_of(spec, weights), device="cpu", flow=flow)
    return bundles


def for_jobs(
    folders: Sequence[str], bundles: Sequence[Localizer], weights: list[str] | None, flow: str | None
) -> dict[str, Bundle]:
    """The same bundles, by ``name@version``, as the drivers of jobs load them: in processes with folders of their own.

    Args:
        bundles: what :func:`load_bundles` made of the folders.
        weights, flow: names, and files as they read from any working folder.
    """
    return {
        Model.of(one).id: Bundle(files.absolute(folder), cast(list[str] | None, weights_of(one.spec, weights)), flow)
        for folder, one in zip(folders, bundles, strict=True)
    }


def weights_of(spec: FeatureSpec, given: Weights) -> Weights:
    """Of the weights given for all bundles, those that a spec's features are made with, in the order of its streams.

    All of them where that fails: the extractor knows best what to say then.
    """
    if given is None or isinstance(given, str) or not isinstance(given, Sequence):
        return given
    digests = {found: str(one) for one in given for found in _digests(str(one))}
    wanted = spec.weights.split("+")
    return [digests[one] for one in wanted] if all(one in digests for one in wanted) else given


@lru_cache
def _digests(weights: str) -> tuple[str, ...]:
    """Of a file of weights, as those of RGB and as those of flow, whichever it can be: read once, for it is large."""
    found = []
    for channels in (3, 2):
        with suppress(InputError):
            found.append(digest(load_state(weights, channels)))
    return tuple(found)
