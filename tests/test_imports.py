"""The library stands alone, and its rooms import only from rooms above them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each room may import from the rooms before it; rooms of one line may import each other.
ROOMS = [
    {"errors", "storage", "files", "parquet"},
    {"labels", "segments", "detections"},
    {"video"},
    {"annotations"},
    {"backbones"},
    {"features"},
    {"projection"},
    {"tal"},
    {"metrics"},
    {"report"},
    {"synthetic"},
    {"client"},
]
FORBIDDEN = {"ray", "typer", "rich", "workflows", "fastapi", "streamlit"}


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def modules() -> list[Path]:
    return sorted((ROOT / "balletal").rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_rooms_above_it(path: Path) -> None:
    room = path.relative_to(ROOT / "balletal").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    level = next(i for i, rooms in enumerate(ROOMS) if room in rooms)
    allowed = set().union(*ROOMS[: level + 1])
    for name in imports(path):
        assert name.split(".")[0] not in FORBIDDEN, f"{path} imports {name}"
        if name.startswith("balletal."):
            assert name.split(".")[1] in allowed, f"{path} imports {name}, a room below it"


def test_importing_the_library_loads_no_ray_and_no_command_line() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules()]
    code = f"import importlib, sys\nfor n in {names}: importlib.import_module(n)\n"
    code += "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"ray", "typer", "workflows"} & set(loaded.stdout.split())
