"""What this machine has, or a cluster, what it lacks, and what to do about it. `python -m workflows.doctor`."""

import contextlib
import importlib
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from balletal.backbones.weights import cache_folder, list_weights
from workflows.console import FAILED, finish, print_json, run

# What the jobs need at least, and what is a nuisance to lack.
DECODERS = {"h264": True, "hevc": False, "vp9": False, "av1": False, "mpeg4": False}
MIN_MEMORY_GB = 8
MIN_DISK_GB = 10

Check = dict[str, Any]


def finding(name: str, found: str, ok: bool | None = True, todo: str = "") -> Check:
    """One finding: ok True, None (works, with a drawback) or False (something will fail); ``todo`` says what to do."""
    return {"name": name, "found": found, "ok": ok, "todo": "" if ok else todo}


def examine() -> list[Check]:
    """Everything that is looked at, in order of display."""
    return [_python(), *_torch(), *_libraries(), *_media(), *_weights(), *_machine()]


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return finding(
        "python", f"{platform.python_version()} on {platform.platform(terse=True)}", good, "use Python 3.11 or newer"
    )


def _torch() -> list[Check]:
    try:
        import torch
    except ImportError as error:
        return [finding("torch", str(error), False, "pip install torch")]
    checks = [finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
        checks.append(finding("gpu", names))
        checks.append(
            finding("bfloat16", "on the GPU", torch.cuda.is_bf16_supported() or None, "extract with --dtype float32")
        )
        return checks
    lacks = "everything works on the CPU, extraction slowly; with a GPU, check its driver and a CUDA build of torch"
    checks.append(finding("gpu", "none", None, lacks))
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    todo = "bfloat16 is emulated on this CPU: --dtype float32 may be the faster one"
    checks.append(finding("bfloat16", "in the CPU" if native else "not in the CPU", native or None, todo))
    return checks


def _libraries() -> list[Check]:
    checks = []
    for name in ("ray", "cv2", "pyarrow", "s3fs"):
        try:
            checks.append(finding(name, str(importlib.import_module(name).__version__)))
        except ImportError as error:
            checks.append(finding(name, str(error), False, "install the project with its dependencies again"))
    return checks


def _media() -> list[Check]:
    try:
        import av
    except ImportError as error:
        return [finding("av", str(error), False, "pip install av")]
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    checks = [finding("av", f"{av.__version__} (libavcodec {version})")]
    have = {name for name in DECODERS if _codec(av, name, "r")}
    lacking = [name for name in DECODERS if name not in have]
    ok = False if any(DECODERS[name] for name in lacking) else None if lacking else True
    todo = f"no decoder for {', '.join(lacking)}: videos of that kind are refused; the PyPI wheel of av has them all"
    checks.append(finding("decoders", ", ".join(sorted(have)) or "none", ok, todo))
    encoder = _codec(av, "libx264", "w")
    todo = "demo and preview videos cannot be written; the PyPI wheel of av has libx264"
    checks.append(finding("h264 encoder", "libx264" if encoder else "none", encoder or None, todo))
    return checks


def _codec(av: Any, name: str, mode: str) -> bool:
    try:
        av.Codec(name, mode)
    except ValueError:  # av's UnknownCodecError is one
        return False
    return True


def _weights() -> list[Check]:
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = os.access(existing, os.W_OK)
    checks = [finding("weights cache", str(folder), writable, "not writable: set BALLETAL_CACHE to a folder that is")]
    for row in list_weights():
        todo = f"balletal weights get {row['name']}"
        found = f"{'cached' if row['cached'] else 'not fetched yet'}: {row['name']}"
        checks.append(finding("weights", found, row["cached"] or None, todo))
    return checks


def _memory() -> tuple[float, float]:
    """GiB in all and available; a container's limit counts, where there is one."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, free = min(total, limit), min(free, limit - used)
    return total / 2**30, free / 2**30


def _machine() -> list[Check]:
    total, free = _memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    temporary = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    spill = shutil.disk_usage(temporary).free / 2**30 if temporary.exists() else 0.0
    return [
        finding("cpu", f"{cores} cores"),
        finding(
            "memory",
            f"{free:.1f} of {total:.1f} GiB free",
            free >= MIN_MEMORY_GB or None,
            f"below {MIN_MEMORY_GB} GiB Ray may kill workers: close programs, or run fewer workers",
        ),
        finding("disk here", f"{disk:.0f} GiB free", disk >= MIN_DISK_GB or None, "stores and runs may not fit"),
        finding(
            f"disk at {temporary}",
            f"{spill:.0f} GiB free",
            spill >= MIN_DISK_GB or None,
            "Ray keeps its files there: set RAY_TMPDIR to a folder with more room",
        ),
    ]


def main(
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to look at: auto, HOST:6379 or ray://HOST:10001.", show_default="none"),
    ] = None,
    storage: Annotated[
        list[str] | None, typer.Option(help="Folder or URI that every node must write to and read from.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights that every node should have.", show_default="all")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Say what this machine has (torch, GPU, bf16, Ray, codecs, weights, memory, disk), what is missing, what to do.

    With --address: what a cluster has, node by node. Exit code 1 when something is missing that will make jobs fail.
    """
    if address is None:
        if storage or weights:
            raise typer.BadParameter(
                "they are looked at on a cluster: --address names it", param_hint="--storage, --weights"
            )
        checks = examine()
    else:
        from workflows.doctor_cluster import examine_cluster

        checks = examine_cluster(address, storage or [], weights or [])
    ok = all(check["ok"] is not False for check in checks)
    if json:
        print_json({"ok": ok, "checks": checks})
    else:
        table = Table("", "what", "found", "what to do", box=None)
        for check in checks:
            sign = {True: "[green]ok[/]", None: "[yellow]--[/]", False: "[bold red]no[/]"}[check["ok"]]
            table.add_row(sign, check["name"], check["found"], check["todo"])
        Console(highlight=False).print(table)
    if not ok:
        finish(FAILED)


if __name__ == "__main__":
    run(main)
