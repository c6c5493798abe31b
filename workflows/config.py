"""YAML configuration with `--set a.b=c` on top: precedence is defaults < file < --set, the result is validated."""

from collections.abc import Iterable
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from balletal import files
from balletal.errors import InputError

M = TypeVar("M", bound=BaseModel)


def read_yaml(uri: str) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        InputError: missing, not YAML, or no mapping.
    """
    try:
        value = yaml.safe_load(files.read_bytes(uri))
    except yaml.YAMLError as error:
        raise InputError(uri, expected="a YAML file", found=str(error).replace("\n", " ")) from None
    if not isinstance(value, dict):
        raise InputError(uri, expected="a YAML mapping", found=type(value).__name__)
    return value


def with_settings(values: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """``values`` with each ``a.b=c`` put in place; ``c`` is read as YAML, so numbers and lists work.

    Raises:
        InputError: a setting that is not of that form, or that goes below a value that is no mapping.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise InputError(f"--set {setting}", expected="key.key=value", found="no key or no value")
        *parents, last = path.split(".")
        try:
            change: dict[str, Any] = {last: yaml.safe_load(text)}
        except yaml.YAMLError as error:
            found = str(error).replace("\n", " ")
            raise InputError(f"--set {setting}", expected="a YAML value", found=found) from None
        for key in reversed(parents):
            change = {key: change}
        values = merged(values, change)
    return values


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``change`` over it, mapping by mapping."""
    result = dict(base)
    for key, value in change.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def validated(model: type[M], values: dict[str, Any], *, where: str) -> M:
    """Raises InputError that names each wrong key when ``values`` are not what ``model`` holds."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg'].lower()}" for e in error.errors())
        raise InputError(where, expected=f"a valid {model.__name__}", found=problems) from None


def claim(out: str, config: dict[str, Any]) -> None:
    """Make ``out`` the folder of a run with this configuration, or check that it is: `config.yaml` says.

    Raises:
        InputError: it holds a run of another configuration; names what differs.
    """
    uri = files.join(out, "config.yaml")
    if not files.exists(uri):
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
        files.write_bytes(uri, text.encode())
        return
    before = read_yaml(uri)
    keys = {**config, **before}  # what only one of them says differs too
    differing = [_told(key, before.get(key)) for key in keys if before.get(key) != config.get(key)]
    if differing:
        raise InputError(
            out,
            expected="an empty folder or a run of this configuration",
            found=f"one of another {', '.join(differing)}",
        )


def _told(key: str, value: Any) -> str:
    """A key, with what stands there if that fits into a message."""
    return key if isinstance(value, dict) else f"{key} ({value})"
