"""detectron2's YAML files: chains of bases, tags that are never run, dotted keys.

`_BASE_` as in fvcore's `CfgNode`, values as in yacs (`CfgNode._decode_cfg_value`).
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mpdiag.config import merge
from mpdiag.errors import ConfigError

Values = Mapping[str, Any]

MISSING = object()
# The official model, and ours as trainers/detectron2 registers it.
META_ARCHITECTURES = ("MaskFormer", "MPDiagMask2Former")
_BASE = "_BASE_"
# The released semantic and panoptic configurations have Python code there, always of the form
# below. It is not run: its numbers are read. A tag at any other key is refused, and code of
# another form stays a note of its tag, which only training can't do without.
_SIZES = "INPUT.MIN_SIZE_TRAIN"
_AS_WRITTEN = re.compile(
    r"\[int\(x \* (\d+(?:\.\d+)?) \* (\d+)\) for x in range\((\d{1,3}), (\d{1,3})\)\]"
)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with a tag that would build an object: its tag and, if it is one, its text."""

    tag: str
    text: str


def read_detectron2_config(path: Path) -> Values:
    """The values of a YAML laid over those of its `_BASE_` files; nothing in them is run.

    Raises:
        ConfigError: missing, no YAML, a tag that would build an object, or based on itself.
    """
    values: Values = _read_chain(path, ())
    for key, value in _tagged(values, ""):
        if key != _SIZES:
            raise ConfigError(
                f"{path}: {key} has a tag that would run code; write the value itself there"
            )
        sizes = _numbers_of(value)
        if sizes is not None and get(values, key) is value:
            values = lay_over(values, {key: sizes})
    return values


def is_detectron2(path: Path) -> bool:
    """Whether a YAML looks like detectron2's, and not like our recipes or another tool's file.

    Raises:
        ConfigError: no readable YAML.
    """
    content = _read_one(path)
    return isinstance(content.get("MODEL"), dict) or _BASE in content


def get(values: Values, key: str) -> Any:
    """The value at a dotted key, or MISSING; text that is a literal, as "(1, 2)", is read as such.

    Tuples come as lists.
    """
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return MISSING
        found = found[part]
    if isinstance(found, str):
        try:
            found = ast.literal_eval(found)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return found
    return list(found) if isinstance(found, tuple) else found


def leaves(values: Values, above: str = "") -> Iterator[str]:
    """The dotted key of each value that is no group."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def lay_over(values: Values, changes: Mapping[str, Any]) -> Values:
    """`values` with others at dotted keys."""
    for key, value in changes.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    return values


def short(value: Any) -> str:
    """As messages show it."""
    return f"{value!r:.60}"


class _Loader(yaml.SafeLoader):
    """Safe, and a value with any other tag becomes a note of that tag."""


def _note_tag(loader: yaml.SafeLoader, node: yaml.Node) -> Tagged:
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    (text,) = [part.value for part in parts] if len(parts) == 1 else [""]
    return Tagged(node.tag, text if isinstance(text, str) else "")


_Loader.add_constructor(None, _note_tag)


def _tagged(value: Any, key: str) -> Iterator[tuple[str, Tagged]]:
    """Every tagged value with its dotted key."""
    if isinstance(value, Tagged):
        yield key.removeprefix("."), value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _tagged(name, f"{key}.{name}")
            yield from _tagged(item, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tagged(item, key)


def _numbers_of(value: Tagged) -> list[int] | None:
    """The sizes that the released files write as [int(x * 0.1 * 640) for x in range(5, 21)]."""
    written = _AS_WRITTEN.fullmatch(value.text.strip())
    if written is None or not value.tag.endswith("python/object/apply:eval"):
        return None
    factor, side, first, end = written.groups()
    return [int(x * float(factor) * int(side)) for x in range(int(first), int(end))]


def _read_chain(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """One file over its bases; `above` are the files that led to it."""
    if path.resolve() in above:
        raise ConfigError(f"{path}: is based on itself; take its {_BASE} out")
    values = _read_one(path)
    bases = values.pop(_BASE, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or base.startswith(("http://", "https://")):
            raise ConfigError(f"{path}: {_BASE} = {short(base)}; give a file that is here")
        file = path.parent / Path(base).expanduser()
        if not file.is_file():
            raise ConfigError(
                f"{path}: its {_BASE} {file} is not there; copy it beside, with the same folders "
                "between them"
            )
        merged = merge(merged, _read_chain(file, (*above, path.resolve())))
    return merge(merged, values)


def _read_one(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a detectron2 YAML") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not a readable YAML file ({reason:.200})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a config is a mapping of settings, not {short(content)}")
    return content
