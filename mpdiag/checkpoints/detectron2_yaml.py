"""Read detectron2's YAML files: chains of base files, tags that never run code, dotted keys.

`_BASE_` works as in fvcore's `CfgNode`, values as in yacs (`CfgNode._decode_cfg_value`).
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mpdiag.config import abbreviate, merge
from mpdiag.errors import ConfigError
from mpdiag.untrusted import YamlLoader, read_yaml

Values = Mapping[str, Any]

MISSING = object()
_MAX_LITERAL = 1000  # characters: Python can crash on deeply nested literals
_MAX_BASES = 32
# The official model, and mpdiag's model that trainers/detectron2 registers.
META_ARCHITECTURES = ("MaskFormer", "MPDiagMask2Former")
_BASE = "_BASE_"
# The released semantic and panoptic configurations have Python code at this key, always of the
# form below. The code is not run; its numbers are parsed. A tag at any other key is an error. Code
# of another form stays a TaggedValue, which is an error in training only.
_TRAIN_SIZES = "INPUT.MIN_SIZE_TRAIN"
_TRAIN_SIZES_CODE = re.compile(
    r"\[int\(x \* (\d{1,3}(?:\.\d{1,9})?) \* (\d{1,5})\) for x in range\((\d{1,3}), (\d{1,3})\)\]"
)


@dataclass(frozen=True, slots=True)
class TaggedValue:
    """A value whose tag would build an object: the tag and, if the value is one, its text."""

    tag: str
    text: str


def read_detectron2_config(path: Path) -> Values:
    """Return the values of a YAML file merged over those of its `_BASE_` files; runs no code.

    Raises:
        ConfigError: a file is missing, is not YAML, has a tag that would build an object, or is
            its own base.
    """
    values: Values = _read_chain(path, (), {})
    for key, value in _tagged_values(values, ""):
        if key != _TRAIN_SIZES:
            raise ConfigError(
                f"{path}: {key} has a tag that would run code; replace it by the value"
            )
        sizes = _parse_sizes(value)
        if sizes is not None and get(values, key) is value:
            values = override(values, {key: sizes})
    return values


def is_detectron2_config(path: Path) -> bool:
    """Return whether a YAML file is one of detectron2, not a recipe or a file of another tool.

    Raises:
        ConfigError: the file is not readable YAML.
    """
    content = _read_one(path)
    return isinstance(content.get("MODEL"), dict) or _BASE in content


def get(values: Values, key: str) -> Any:
    """Return the value at a dotted key, or MISSING.

    Text that is a Python literal, such as "(1, 2)", is evaluated. Tuples become lists.
    """
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return MISSING
        found = found[part]
    if isinstance(found, str) and len(found) <= _MAX_LITERAL:
        try:
            found = ast.literal_eval(found)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return found
    return list(found) if isinstance(found, tuple) else found


def dotted_keys(values: Values, prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of each value that is not a section."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def override(values: Values, changes: Mapping[str, Any]) -> Values:
    """Return `values` with those at the given dotted keys replaced."""
    for key, value in changes.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    return values


class _Loader(YamlLoader):
    """Loader that reads a value with an unknown tag as a TaggedValue."""


def _construct_tagged(loader: YamlLoader, node: yaml.Node) -> TaggedValue:
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    (text,) = [part.value for part in parts] if len(parts) == 1 else [""]
    return TaggedValue(node.tag, text if isinstance(text, str) else "")


_Loader.add_constructor(None, _construct_tagged)


def _tagged_values(value: Any, key: str) -> Iterator[tuple[str, TaggedValue]]:
    """Yield every tagged value with its dotted key."""
    if isinstance(value, TaggedValue):
        yield key.removeprefix("."), value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _tagged_values(name, f"{key}.{name}")
            yield from _tagged_values(item, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tagged_values(item, key)


def _parse_sizes(value: TaggedValue) -> list[int] | None:
    """Return the sizes of code like [int(x * 0.1 * 640) for x in range(5, 21)]; else None."""
    match = _TRAIN_SIZES_CODE.fullmatch(value.text.strip())
    if match is None or not value.tag.endswith("python/object/apply:eval"):
        return None
    factor, side, first, end = match.groups()
    return [int(x * float(factor) * int(side)) for x in range(int(first), int(end))]


def _read_chain(
    path: Path, derived: tuple[Path, ...], done: dict[Path, dict[str, Any]]
) -> dict[str, Any]:
    """Return a file merged over its bases.

    Args:
        path: the file.
        derived: files that are based on it.
        done: merged files by path; the result is added.
    """
    resolved = path.resolve()
    if resolved in derived:
        raise ConfigError(f"{path}: is its own base; remove {_BASE}")
    if len(derived) > _MAX_BASES:
        raise ConfigError(f"{path}: more than {_MAX_BASES} files that are based on each other")
    if resolved in done:
        return done[resolved]
    values = _read_one(path)
    bases = values.pop(_BASE, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or base.startswith(("http://", "https://")):
            raise ConfigError(f"{path}: {_BASE} = {abbreviate(base)}; give a local file")
        try:
            file = path.parent / Path(base).expanduser()
            exists = file.is_file()
        except (OSError, RuntimeError):  # the name is too long, or that of an unknown user
            exists = False
        if not exists:
            raise ConfigError(
                f"{path}: {_BASE} = {abbreviate(base)} does not exist; copy the file there"
            )
        merged = merge(merged, _read_chain(file, (*derived, resolved), done))
    done[resolved] = merge(merged, values)
    return done[resolved]


def _read_one(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path, _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a detectron2 YAML") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: contains {abbreviate(content)}, not a mapping of settings")
    return content
