"""What goes with a job to the cluster: code, variables, and not the data."""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import balletal
from balletal.errors import InputError

PROJECT = Path(balletal.__file__).parents[1]
PARTS = ("balletal", "workflows", "schemas", "pyproject.toml")
"""What of the project goes with a job; where balletal is installed, the folder is the one of all packages."""
_MAX_MIB = 512  # what Ray takes


def package(folder: Path, out: Path, parts: Iterable[str] = ()) -> None:
    """Zip a folder: the same bytes for the same files, so that Ray sends them once. Hidden names and caches stay here.

    Args:
        parts: these files and folders in it alone.

    Raises:
        InputError: more than Ray takes.
    """
    roots = [folder / part for part in parts] or [folder]
    found = sorted(file for root in roots for file in (root, *root.rglob("*")) if _goes(file, folder))
    mib = sum(file.stat().st_size for file in found) / 2**20
    if mib > _MAX_MIB:
        expected = f"at most {_MAX_MIB} MiB of code and configuration; data belongs where every node can read it"
        raise InputError(str(folder), expected=expected, found=f"{mib:.0f} MiB in {len(found)} files")
    with zipfile.ZipFile(out, "w") as archive:
        for file in found:
            about = zipfile.ZipInfo(file.relative_to(folder).as_posix())  # dated 1980, whenever the file was written
            about.external_attr = 0o644 << 16
            archive.writestr(about, file.read_bytes(), zipfile.ZIP_DEFLATED)


def _goes(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    return file.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts)


def variables(given: Iterable[str]) -> dict[str, str]:
    """Environment of a job, of ``KEY=VALUE`` and of ``KEY``, a variable of this process. Values are secrets, maybe.

    Raises:
        InputError: no such variable here. Tells no value.
    """
    found = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not key or (not equals and key not in os.environ):
            expected = "KEY=VALUE, or KEY of a variable that is set here"
            raise InputError(f"--env {key}", expected=expected, found="none of that name" if key else "no name")
        found[key] = value if equals else os.environ[key]
    return found


def paths_of_nodes(words: Iterable[str], sent: Path | None) -> list[str]:
    """The words of a command line that are paths of the machine that runs it, and no URIs.

    Args:
        sent: the folder that goes with the job; what lies in it has the same name in the job's folder.
    """
    values = [word.partition("=")[2] if word.startswith("-") else word for word in words]
    paths = [value for value in values if value and "://" not in value and ("/" in value or _exists(Path(value)))]
    return [path for path in paths if Path(path).is_absolute() or sent is None or not _exists(sent / path)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a name, as a word of JSON may be
        return False
