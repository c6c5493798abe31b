"""Fixtures that every test may use, and what happens when a component is missing."""

import os
import shutil

# One thread each, before numpy and torch are loaded: the tests' arrays are small, and Ray's workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _missing(reason: str) -> NoReturn:
    if os.environ.get("BALLETAL_REQUIRE") == "all":
        pytest.fail(f"required, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require() -> Callable[[str], NoReturn]:
    """Call it with a reason when a component is missing: a skip, or a failure when BALLETAL_REQUIRE=all."""
    return _missing


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project (or BALLETAL_SHARED)."""
    path = Path(os.environ.get("BALLETAL_SHARED", ROOT.parent / "shared"))
    if not (path / "annchor").is_dir():
        _missing(f"no real data at {path}")
    return path


@pytest.fixture(scope="session")
def chromium(require: Callable[[str], NoReturn]) -> str:
    """The program of a browser."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        require("there is no Chromium")
    return found


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One private local Ray with two CPUs and a dashboard, which takes jobs, for all tests that need one."""
    from workflows.cluster import ray_session

    # Ray puts sockets below this folder, and a socket's path may have no more than 107 characters.
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        with ray_session(num_cpus=2, dashboard=True):
            yield
