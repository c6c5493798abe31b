"""What a Ray cluster has, node by node, for `balletal doctor --address`."""

import platform
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from balletal.backbones.weights import list_weights
from balletal.errors import InputError
from workflows.cluster import ray_session
from workflows.doctor import MIN_DISK_GB, Check, finding

Answers = dict[str, Any]
"""What each node answered, by its name; an exception where it raised one or did not answer."""

PACKAGES = ("ray", "balletal", "torch")
_ANSWER_S = 60.0
_STORAGE_S = 30.0
_SKEW_S = 1.0


def examine_cluster(address: str, storage: list[str], weights: list[str]) -> list[Check]:
    """Join a cluster and look at each of its nodes, whatever else they do meanwhile.

    Args:
        storage: folders or URIs that every node must write to, and find what the others wrote.
        weights: names of weights that every node should have; none: all there are.

    Raises:
        InputError: no cluster there, or no such weights.
    """
    known = [row["name"] for row in list_weights()]
    if unknown := set(weights) - set(known):
        raise InputError(min(unknown), expected=f"one of {', '.join(known)}", found="no weights of that name")
    # A node may have another balletal, or none: what is asked of it comes from here.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with ray_session(address):
            nodes = {f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})": node for node in _alive()}
            about = _ask(nodes, _about, weights or known)
            return [
                finding("nodes", f"{len(nodes)}: {', '.join(nodes)}"),
                *_versions(about),
                *_resources(nodes),
                _gpus(nodes),
                _disk(about),
                _clocks(nodes),
                *(_storage(nodes, uri) for uri in storage),
                *(_weights(about, name) for name in weights or known),
            ]
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        return [finding("ray and python", " ".join(str(error).split()), False, "use the cluster's versions here")]
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _ask(nodes: dict[str, Any], function: Callable[..., Any], *args: Any, limit_s: float = _ANSWER_S) -> Answers:
    """``function(*args)`` on every node at once, also where all CPUs are taken."""
    tasks = {}
    for name, node in nodes.items():
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(num_cpus=0, max_retries=0)(function)
        tasks[name] = remote.options(scheduling_strategy=here).remote(*args)
    ready, _ = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=limit_s)
    answers: Answers = {}
    for name, task in tasks.items():
        try:
            answers[name] = ray.get(task) if task in ready else TimeoutError(f"no answer within {limit_s:g} s")
        except Exception as error:  # of the node's: it is what is to be told
            answers[name] = error
    return answers


def _summary(answers: Answers, own: Mapping[str, str] | None = None) -> tuple[str, bool]:
    """The nodes by what they answered, and whether all say the same and none failed.

    Args:
        own: what is in a node's answer of that node alone, and is left out.
    """
    by_answer: dict[str, list[str]] = {}
    for name, answer in answers.items():
        short = _short(answer).replace(own[name], "") if own else _short(answer)
        by_answer.setdefault(short, []).append(name)
    failed = any(isinstance(answer, Exception) for answer in answers.values())
    if len(by_answer) == 1:
        return next(iter(by_answer)), not failed
    return "; ".join(f"{answer} on {', '.join(names)}" for answer, names in by_answer.items()), False


def _short(answer: Any) -> str:
    if not isinstance(answer, Exception):
        return str(answer)
    cause = getattr(answer, "cause", None) or answer
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1] if str(cause).strip() else ''}"[:300]


def _of(answers: Answers, key: str) -> Answers:
    return {name: a if isinstance(a, Exception) else a[key] for name, a in answers.items()}


# What follows runs on the nodes, and imports what may be missing there where it is used.


def _installed() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _about(weights: list[str]) -> dict[str, Any]:
    import shutil

    import ray

    try:
        from balletal.backbones.weights import list_weights

        cached = {row["name"] for row in list_weights() if row["cached"]}
        have: dict[str, Any] = {name: "cached" if name in cached else "not cached" for name in weights}
    except ImportError as error:
        have = dict.fromkeys(weights, f"not known: {error}")
    session = ray._private.worker._global_node.get_session_dir_path()
    return {"installed": _installed(), "weights": have, "free": shutil.disk_usage(session).free / 2**30}


def _cuda() -> int:
    """GPUs that torch sees; a task without GPUs of its own sees none, so a process of its own is asked."""
    import os
    import subprocess

    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def _now() -> float:
    return time.time()


def _write(uri: str, name: str) -> str:
    from balletal import files, storage

    storage.PATIENCE_S = _STORAGE_S / 3  # of this process, which looks and ends
    files.write_bytes(files.join(uri, name), name.encode())
    return name


def _read(uri: str, names: list[str]) -> str:
    from balletal import files, storage

    storage.PATIENCE_S = _STORAGE_S / 3
    unseen = sum(not files.exists(files.join(uri, name)) for name in names)
    same = all(files.read_bytes(files.join(uri, name)) == name.encode() for name in names) if not unseen else True
    return "read" if same and not unseen else f"{unseen} of {len(names)} nodes' files are not seen"


def _remove(uri: str, names: list[str]) -> str:
    from balletal import files

    for name in names:
        files.remove(files.join(uri, name))
    return "removed"


# What follows runs here.


def _versions(about: Answers) -> list[Check]:
    checks, installed = [], _of(about, "installed")
    for package, here in _installed().items():
        found, same = _summary(_of(installed, package))
        matters = package != "balletal" or "not installed" not in found
        ok = True if same and found == here else (False if matters else None)
        todo = f"{here} here: use one version everywhere" if matters else "balletal submit sends its code with a job"
        checks.append(finding(package, found, ok, todo))
    return checks


def _resources(nodes: dict[str, Any]) -> list[Check]:
    total: Counter[str] = Counter()
    for node in nodes.values():
        total.update(node["Resources"])
    free = ray.available_resources()
    gib = {
        name: f"{free.get(key, 0) / 2**30:.1f} of {total[key] / 2**30:.1f} GiB free"
        for name, key in (("memory", "memory"), ("object store", "object_store_memory"))
    }
    return [
        finding(
            "cpu", f"{free.get('CPU', 0):g} of {total['CPU']:g} free", total["CPU"] > 0, "no node has CPUs for tasks"
        ),
        *(finding(name, found) for name, found in gib.items()),
    ]


def _gpus(nodes: dict[str, Any]) -> Check:
    having = {name: node for name, node in nodes.items() if node["Resources"].get("GPU")}
    if not having:
        return finding("gpu", "none", None, "everything works on CPUs, extraction slowly")
    seen = _ask(having, _cuda)
    right = {name: seen[name] == node["Resources"]["GPU"] for name, node in having.items()}
    found = "; ".join(
        f"Ray has {node['Resources']['GPU']:g}, torch sees {_short(seen[name])} on {name}"
        for name, node in having.items()
    )
    return finding("gpu", found, all(right.values()), "check the driver and the CUDA build of torch on these nodes")


def _disk(about: Answers) -> Check:
    free = _of(about, "free")
    found, _ = _summary({name: a if isinstance(a, Exception) else f"{a:.0f} GiB free" for name, a in free.items()})
    ok = all(not isinstance(a, Exception) and a >= MIN_DISK_GB for a in free.values())
    return finding("disk of Ray", found, ok or None, "Ray spills there: start nodes with a --temp-dir with more room")


def _clocks(nodes: dict[str, Any]) -> Check:
    """How far the nodes' clocks are apart; each is asked thrice, and the quickest answer counts."""
    offsets, doubt = {}, 0.0
    for name, node in nodes.items():
        answers = []
        for _ in range(3):
            asked = time.time()
            there = _ask({name: node}, _now)[name]
            if isinstance(there, Exception):
                return finding("clocks", f"{_short(there)} on {name}", False, "the node does not run tasks")
            answers.append((time.time() - asked, there - (asked + time.time()) / 2))
        took, offsets[name] = min(answers)
        doubt = max(doubt, took)
    skew = max(offsets.values()) - min(offsets.values())
    found = f"{skew:.2f} s apart, {max(map(abs, offsets.values())):.2f} s at most from here (within {doubt:.2f} s)"
    far = max(skew, *map(abs, offsets.values())) - doubt > _SKEW_S
    return finding(
        "clocks", found, None if far else True, "object stores refuse clocks that are wrong: synchronise them"
    )


def _storage(nodes: dict[str, Any], uri: str) -> Check:
    """Every node writes a file, reads those of all, removes them."""
    run = uuid.uuid4().hex[:8]
    own = {name: f".balletal-doctor-{run}-{node['NodeID'][:8]}" for name, node in nodes.items()}
    written: Answers = {}
    for name, node in nodes.items():
        written |= _ask({name: node}, _write, uri, own[name], limit_s=_STORAGE_S)
    answers = written
    if not any(isinstance(answer, Exception) for answer in written.values()):
        answers = _ask(nodes, _read, uri, list(own.values()), limit_s=_STORAGE_S)
    removed = _ask(nodes, _remove, uri, list(own.values()), limit_s=_STORAGE_S)
    said = {name: "written" if a == own[name] else a for name, a in answers.items()}
    found, same = _summary(said, {name: f"/{file}" for name, file in own.items()})
    if not (same and found == "read"):
        return finding(f"storage {uri}", found, False, "every node needs this place, and credentials for it")
    found, same = _summary(removed)
    todo = f"files called .balletal-doctor-{run}-... stay there; nodes may not remove files"
    return finding(f"storage {uri}", "written, read and removed by all" if same else found, same or None, todo)


def _weights(about: Answers, name: str) -> Check:
    found, same = _summary(
        {node: a if isinstance(a, Exception) else a[name] for node, a in _of(about, "weights").items()}
    )
    todo = f"each node fetches them once: balletal weights get {name} there, or in the image, with BALLETAL_CACHE"
    return finding(f"weights {name}", found, (same and found == "cached") or None, todo)
