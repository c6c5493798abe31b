"""The stages of an extraction, as Ray Data runs them: what each is given and hands on, how they share a cluster.

    videos -> track (tasks) -> units -> decode (tasks) -> backbone (actors) -> write (tasks)

A row is one unit of work. Pictures go through the object store once, from the decoder to the backbone; what comes back
is features, a thousandth of them. Whatever a video does becomes an error row; only a store that cannot be reached or
written ends the job.
"""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy, Dataset

from balletal import files
from balletal.errors import BalletalError, InputError, StorageError, VideoError
from balletal.features.extractor import Extractor, keep_freed_memory
from balletal.features.store import FeatureStore, Stage
from balletal.features.units import frames_of, read_unit
from balletal.video.clips import VideoSegment
from balletal.video.decode import read_frames
from balletal.video.guard import GuardError, guarded
from balletal.video.track import track_dancer

Row = dict[str, Any]

# What a decoder may take before it counts as hung: generous, for machines are shared and buckets far away.
_LIMIT_S, _LIMIT_PER_VIDEO_S = 300.0, 20.0
# Per second of all that comes before: files that cannot be sought are decoded from their beginning.
_LIMIT_PER_SKIPPED_S = 0.5
# How often a task may cost its process its life, and an actor come to life again. (By default Ray tries for ever.)
_DEATHS = 8


# CPUs of a decoding task; how many CPUs of network one of them feeds, with room to spare; bytes of an actor on CPUs.
_DECODE_CPUS, _CPUS_FED, _ACTOR_BYTES = 0.4, 6, 2.5e9


@dataclass(frozen=True)
class Share:
    """How the stages share a cluster: CPUs of a decoding task; CPUs, GPUs, threads and greatest number of the actors.

    The CPUs of neighbouring stages differ, or Ray Data would fuse them into one. Writing is waiting, so it takes none.
    """

    decode_cpus: float
    actor_cpus: float
    actor_gpus: float
    actors: int
    threads: int = 1

    @property
    def track_cpus(self) -> float:
        return 0.8 * self.decode_cpus


def share(
    nodes: Sequence[Mapping[str, float]], *, actors: int | None = None, gpus_per_actor: float | None = None
) -> Share:
    """Divide a cluster.

    Args:
        nodes: what each has, as Ray counts it: ``CPU``, ``GPU``, bytes of ``memory``.
        actors: greatest number of actors, for clusters that grow; default: as many as there is room for now.
        gpus_per_actor: by default half of one, so that one actor computes while the other fetches and copies. Given,
            it asks for GPUs even where there are none yet, as on a cluster that grows.

    Raises:
        InputError: no node has as many GPUs as an actor is to have; there are no CPUs, and ``actors`` does not say how
            many are to come.
    """
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    if gpus > 0 or gpus_per_actor is not None:
        each = float(gpus_per_actor or 0.5)
        if not (each <= 1 or each.is_integer()):
            raise InputError("GPUs per actor", expected="a whole number above 1", found=f"{each:g}")
        if 0 < (most_gpus := max(node.get("GPU", 0) for node in nodes)) < each:
            raise InputError("GPUs per actor", expected=f"at most {most_gpus:g}, what a node has", found=f"{each:g}")
        most = actors or max(1, int(gpus / each))
        # An actor feeds its GPU with half a CPU; never so much that nothing is left to decode with.
        return Share(min(1.0, cpus / 2), min(0.5, cpus / 4 / most), each, most)
    if not cpus and actors is None:
        expected = "a node with CPUs, or --actors on a cluster that grows"
        raise InputError("the cluster", expected=expected, found="none on any node")
    # On CPUs, an actor of one thread for each: threads that share a clip's work wait for each other whenever one of
    # them must wait for a decoder. Fewer, with more threads, where memory is short.
    largest = max(nodes, key=lambda node: node.get("CPU", 0))
    on_one = max(1, int(largest.get("CPU", 1)))
    of_them = max(1, min(on_one, int(largest.get("memory", on_one * _ACTOR_BYTES) / _ACTOR_BYTES)))
    actor_cpus = (on_one - _DECODE_CPUS * math.ceil(on_one / _CPUS_FED)) / of_them
    fitting = sum(int(node.get("CPU", 0) / on_one * of_them + 1e-9) for node in nodes)
    return Share(_DECODE_CPUS, actor_cpus, 0, actors or max(1, fitting), on_one // of_them)


def stages(
    store: FeatureStore, units: Sequence[VideoSegment], versions: dict[str, str], shared: Share, **extractor: Any
) -> Dataset:
    """The lazy dataset of units done: a row each, as :meth:`workflows.progress.Progress.add` takes it.

    Args:
        versions: of the files, by video id.
        extractor: arguments of :class:`balletal.features.extractor.Extractor` beside the spec.
    """
    rows = [asdict(unit) | {"version": versions[unit.video_id]} for unit in units]
    if store.spec.tracker:
        # A video's track comes before its units, and others' units are under way meanwhile.
        by_video: dict[str, list[Row]] = {}
        for row in rows:
            by_video.setdefault(row["video_id"], []).append(row)
        manifest = _one_a_block([{"units": json.dumps(of_one)} for of_one in by_video.values()])
        manifest = manifest.map_batches(
            partial(_track, store), batch_size=1, num_cpus=shared.track_cpus, ray_remote_args_fn=_task_retries
        )
    else:
        manifest = _one_a_block(rows)
    return (
        manifest.map(partial(_decode, store), num_cpus=shared.decode_cpus, ray_remote_args_fn=_task_retries)
        .map(
            _Backbone,  # a class is allowed, and made once an actor
            fn_constructor_args=(store, shared.threads, extractor),
            compute=ActorPoolStrategy(min_size=1, max_size=shared.actors),
            num_cpus=shared.actor_cpus,
            num_gpus=shared.actor_gpus,
            ray_remote_args_fn=_actor_retries,
        )
        .map(partial(_write, store), num_cpus=0, ray_remote_args_fn=_task_retries)
    )


# By functions, for Ray Data has no other way left to give these options. It will drop this one in 2.64.
def _task_retries() -> dict[str, int]:
    return {"max_retries": _DEATHS}


def _actor_retries() -> dict[str, int]:
    # Not the tries of a unit: while the loss of a node is not noticed yet, they fail by the second.
    return {"max_restarts": _DEATHS}


def _one_a_block(rows: list[Row]) -> Dataset:
    """One row a block, so that a task is a unit; more rows where there are very many."""
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), 4096))
    # No row fits into a byte, so each makes a block. (`repartition` does that as well, in tasks of a whole CPU, which a
    # laptop that runs the network has not got left.)
    dataset.context.target_max_block_size = 1
    # A store that cannot be written is told by the error that says so, and not wrapped in another.
    dataset.context.raise_original_map_exception = True
    return dataset


def _track(store: FeatureStore, batch: dict[str, Any]) -> dict[str, Any]:
    """The units of a video, as columns, once the store knows where its dancer is."""
    started = time.monotonic()
    units: list[Row] = json.loads(batch["units"][0])
    video_id, uri = units[0]["video_id"], units[0]["uri"]
    problem = None
    if not store.has_track(video_id):
        limit_s = _limit_s(0, units[0]["duration"])
        try:
            track = guarded(track_dancer, uri, store.spec.fps, uri=uri, limit_s=limit_s)
            _require_unchanged(units[0])
            store.write_track(video_id, track)
        except (StorageError, GuardError):
            raise
        except Exception as error:  # whatever a file does, the others go on
            problem = error
    if problem is not None:
        for unit in units:
            _write_error(store, unit, "track", problem)
    columns: dict[str, Any] = {name: [unit[name] for unit in units] for name in units[0]}
    columns["failed"] = [problem is not None] * len(units)
    columns["track_s"] = [time.monotonic() - started] + [0.0] * (len(units) - 1)
    return columns


def _decode(store: FeatureStore, unit: Row) -> Row:
    """Add the unit's ``pixels``, ``flow``, ``lead`` and ``damage`` in words; none of them when it ``failed``."""
    started = time.monotonic()
    spec, segment = store.spec, _segment(unit)
    start, stop, _ = frames_of(segment, spec)
    size = spec.size
    empty = {"pixels": np.empty((0, size, size, 3), np.uint8), "flow": np.empty((0, size, size, 2), np.uint8)}
    row = unit | empty | {"failed": unit.get("failed", False), "lead": 0, "damage": "", "decode_s": 0.0}
    if row["failed"]:
        return row
    try:
        track = store.track(unit["video_id"], start, stop) if spec.tracker else None
        read = partial(guarded, read_frames, uri=unit["uri"], limit_s=_limit_s(start / spec.fps, stop / spec.fps))
        frames = read_unit(segment, spec, track, read)
        _require_unchanged(unit)
        if frames.damage and not len(frames.pixels):
            raise _damage(store, unit, 0, frames.damage)
        row |= {"pixels": frames.pixels, "lead": frames.lead, "damage": frames.damage or ""}
        if frames.flow is not None:
            row["flow"] = frames.flow
    except (StorageError, GuardError):
        raise
    except Exception as error:  # whatever a file does, the others go on
        _write_error(store, unit, "decode", error)
        row["failed"] = True
    return row | {"decode_s": time.monotonic() - started}


class _Backbone:
    """The networks, in an actor: from pictures to ``features``."""

    def __init__(self, store: FeatureStore, threads: int, extractor: dict[str, Any]) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        # The frames lie read-only in Ray's object store; the backbone reads them only, so no copy is needed.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self.store = store
        self.extractor = Extractor(store.spec, **extractor)

    def __call__(self, unit: Row) -> Row:
        started = time.monotonic()
        pixels, flow = unit.pop("pixels"), unit.pop("flow")
        unit |= {"features": np.empty((0, self.store.spec.dim), np.float32), "frames": len(pixels)}
        if not unit["failed"]:
            given = flow if len(flow) else None
            try:
                unit["features"] = self.extractor.extract(pixels, unit["clips"], lead=unit["lead"], flow=given)
            except BalletalError as error:  # others, such as a GPU that fails, are no fault of the unit
                _write_error(self.store, unit, "extract", error)
                unit["failed"] = True
        return unit | {"backbone_s": time.monotonic() - started}


def _write(store: FeatureStore, unit: Row) -> Row:
    """Write the unit's file, the last thing done for it."""
    started = time.monotonic()
    video_id, segment, features = unit["video_id"], unit["segment"], unit["features"]
    if not unit["failed"]:
        try:
            # The error row first: a run that is killed in between leaves a unit that is not there, and is done again.
            if unit["damage"]:
                decoded = unit["frames"] - unit["lead"]
                _write_error(store, unit, "damage", _damage(store, unit, decoded, unit["damage"]))
            else:
                store.clear_error(video_id, segment)
            # Once more: another run may have found the new file meanwhile, and be through with it.
            _require_unchanged(unit)
            store.write_unit(video_id, segment, unit["first_clip"], features)
        except InputError as error:  # the file is another one by now, or a value is not finite
            _write_error(store, unit, "extract", error)
            unit["failed"] = True
    return {
        "video_id": video_id,
        "segment": segment,
        "failed": unit["failed"],
        "rows": 0 if unit["failed"] else len(features),
        "frames": unit["frames"],
        "video_s": len(features) * store.spec.stride_s,
        "track_s": unit.get("track_s", 0.0),
        "decode_s": unit["decode_s"],
        "backbone_s": unit["backbone_s"],
        "write_s": time.monotonic() - started,
    }


def _segment(unit: Row) -> VideoSegment:
    return VideoSegment(**{field.name: unit[field.name] for field in fields(VideoSegment)})


def _limit_s(start_s: float, stop_s: float) -> float:
    return _LIMIT_S + _LIMIT_PER_VIDEO_S * (stop_s - start_s) + _LIMIT_PER_SKIPPED_S * start_s


def _require_unchanged(unit: Row) -> None:
    """Refuse what was read from a file that is no longer the one that the job began with."""
    found = files.version(unit["uri"])
    if found != unit["version"]:
        raise VideoError(
            unit["uri"],
            "changed",
            expected=f"the file as it was listed ({unit['version']})",
            found=f"another ({found})",
        )


def _damage(store: FeatureStore, unit: Row, decoded: int, damage: str) -> VideoError:
    missing = (unit["clips"] - 1) * store.spec.stride + store.spec.window - decoded
    kind = "truncated" if missing > 0 else "corrupt"
    return VideoError(unit["uri"], kind, expected="pictures that all decode", found=damage)


def _write_error(store: FeatureStore, unit: Row, stage: Stage, error: Exception) -> None:
    store.write_error(
        unit["video_id"], unit["segment"], uri=unit["uri"], version=unit["version"], stage=stage, error=error
    )
