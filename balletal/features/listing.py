"""What a feature store holds, by the names of its files."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import unquote

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.parquet import READERS, parquet_files


class VideoState(NamedTuple):
    """What a store has of a video.

    Attributes:
        segments: the units that are done, ascending.
        digest: changes when one of their files does, or when there are others.
    """

    segments: tuple[int, ...]
    digest: str


def read_spec(uri: str, spec_id: str) -> FeatureSpec:
    where = files.join(uri, "features", f"spec={spec_id}", "_spec.json")
    spec = FeatureSpec.from_dict(files.read_json(where), where=where)
    if spec.spec_id != spec_id:
        raise InputError(where, expected=f"the feature spec {spec_id}", found=str(spec))
    return spec


def spec_ids(uri: str) -> list[str]:
    found = files.list_names(files.join(uri, "features"))
    return [name.removeprefix("spec=") for name in found if name.startswith("spec=")]


def unit_files(folder: str) -> dict[str, list[tuple[int, str]]]:
    """video_id -> [(segment, URI)] by segment."""
    units: dict[str, list[tuple[int, str]]] = {}
    for uri in parquet_files(folder):
        if unit := _unit_of(uri.rsplit("/", 1)[-1]):
            units.setdefault(unit[0], []).append((unit[1], uri))
    return {video: sorted(found) for video, found in units.items()}


def video_states(folder: str) -> dict[str, VideoState]:
    """What there is of each video, by one listing of a spec's folder."""
    numbers: dict[str, list[int]] = {}
    digests: Counter[str] = Counter()
    for name, version in files.iter_versions(folder):
        if unit := _unit_of(name):
            numbers.setdefault(unit[0], []).append(unit[1])
            digests[unit[0]] += _hash(unit[1], version)
    return {video: VideoState(tuple(sorted(found)), _hex(digests.pop(video))) for video, found in numbers.items()}


def video_state(uris: Mapping[int, str]) -> VideoState:
    """The same of one video, by a look at each of its files: URIs by number of the unit."""
    with ThreadPoolExecutor(READERS) as pool:
        versions = pool.map(files.version, uris.values())
    return VideoState(tuple(uris), _hex(sum(map(_hash, uris, versions))))


def _unit_of(name: str) -> tuple[str, int] | None:
    """The unit that a file is of, if it is one's."""
    found = re.fullmatch(r"([^._].*)-(\d+)\.parquet", name)
    return (unquote(found[1]), int(found[2])) if found else None


def _hash(segment: int, version: str) -> int:
    """To be added up: a sum does not depend on the order of a listing."""
    return int.from_bytes(hashlib.blake2b(f"{segment} {version}".encode(), digest_size=8).digest())


def _hex(total: int) -> str:
    return f"{total % 2**64:016x}"


def error_files(uri: str) -> dict[tuple[str, str, str], str]:
    """(spec_id, video_id, unit) -> URI."""
    found = {}
    for file in parquet_files(files.join(uri, "errors")):
        if match := re.fullmatch(r"([0-9a-f]+)-(.+)-(\d+|video)\.parquet", file.rsplit("/", 1)[-1]):
            found[match[1], unquote(match[2]), match[3]] = file
    return found
