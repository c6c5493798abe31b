"""The data contracts: Arrow schemas (`schemas.arrow`), JSON Schemas and label sets, as data other languages read."""

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def json_schema(name: str) -> dict[str, Any]:
    """A shipped JSON Schema by name: ``bundle``, ``metrics`` or ``result``."""
    return json.loads((_HERE / f"{name}.schema.json").read_text())


def label_set_names() -> list[str]:
    """Names of the shipped label sets."""
    return sorted(path.stem for path in (_HERE / "labels").glob("*.json"))


def label_set(name: str) -> dict[str, Any] | None:
    """A shipped label set, or the content of the JSON file that ``name`` names; None when there is neither."""
    shipped = _HERE / "labels" / f"{name}.json"
    path = shipped if shipped.is_file() else Path(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" and path.is_file() else None
