"""Write reference/config.md from the pydantic models of the training configuration."""

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainers.methods import FullTrainConfig

PAGE = "reference/config.md"
INTRODUCTION = """# Configuration keys

The settings of a training run. Set a key in a recipe (a YAML file), or on the command line:
`mpdiag train RECIPE model.num_queries=50`. Unknown keys and values out of range are errors that
name the key.
`mpdiag train RECIPE --dry-run` prints all settings. [Training](../training.md) explains them.

"""
SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page."""
    text = INTRODUCTION + "\n".join(_section(FullTrainConfig, ""))
    files.append(File.generated(config, PAGE, content=text))
    return files


def _section(kind: type[BaseModel], prefix: str) -> Iterator[str]:
    nested: list[tuple[str, type[BaseModel]]] = []
    rows = []
    for name, field in kind.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            nested.append((f"{prefix}{name}", annotation))
        else:
            rows.append(_row(f"{prefix}{name}", field))
    if not prefix:
        yield "## Run\n"
    if rows:
        yield from ["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    for path, inner in nested:
        yield f"{'##' if '.' not in path else '###'} `{path}`\n"
        summary = " ".join((inner.__doc__ or "").split())
        yield re.sub(r"(?<!`)\b([a-z]+_[a-z_]+)\b(?!`)", r"`\1`", summary) + "\n"
        yield from _section(inner, f"{path}.")


def _row(key: str, field: FieldInfo) -> str:
    kind = _type(field.annotation) + _limits(field.metadata)
    default = "" if field.is_required() else _code(field.get_default(call_default_factory=True))
    meaning = (field.description or "").replace("|", "\\|").replace("*", "\\*")
    return f"| `{key}` | {kind} | {default} | {meaning} |"


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        inner = arguments[1]
        limits = inner.metadata if isinstance(inner, FieldInfo) else arguments[1:]
        return _type(arguments[0]) + _limits(limits)
    if origin is Literal:
        return " or ".join(_code(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_type(arguments[0])}"
        return f"{len(arguments)} x {_type(arguments[0])}"
    name: str = getattr(annotation, "__name__", str(annotation))
    return {"Path": "path", "str": "text", "dict": "mapping"}.get(name, name)


def _limits(metadata: Any) -> str:
    limits = [
        f"{sign} {getattr(limit, kind.__name__.lower())}"
        for limit in metadata
        for kind, sign in SIGNS.items()
        if isinstance(limit, kind)
    ]
    return f" {', '.join(limits)}" if limits else ""


def _code(value: Any) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value}`".replace("|", "\\|")
