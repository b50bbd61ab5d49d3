"""A report as a document: sections of claims, tables and pictures; written in four formats.

Who builds one decides what it says; nothing here knows what a number means.
"""

import base64
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Template

from mpdiag import __version__
from mpdiag.errors import ConfigError, RunError
from mpdiag.store.files import replace_file
from reports.formatting import escape_formula
from reports.templating import html_environment, latex_environment, markdown_environment

FORMATS = ("md", "html", "tex", "csv")
_KINDS = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Row:
    """Cells of a table, the label first; `quiet` rows are shown in grey, `first` under a rule."""

    cells: tuple[str, ...]
    quiet: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, the first `labels` of which are texts and the others numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    labels: int = 1


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture under the name of a file; `alt` says what it shows to who can't see it."""

    file: str
    data: bytes
    caption: str
    alt: str
    small: bool = False

    @property
    def uri(self) -> str:
        """The picture itself as an address, so that a page needs no other file."""
        kind = _KINDS[self.file.rpartition(".")[2]]
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True, slots=True)
class Highlight:
    """One thing that a reader is to know: what is asked or claimed, the answer, the measurement."""

    text: str
    answer: str
    measured: str
    published: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document under a heading."""

    title: str
    text: tuple[str, ...] = ()
    findings: tuple[Highlight, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Value:
    """A number of the CSV: as a fraction where it is one, None where unknown."""

    section: str
    source: str
    row: str
    part: str
    metric: str
    layer: int | None
    seed: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Document:
    """All of a report; `facts` say how it can be made again."""

    name: str
    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    values: tuple[Value, ...] = ()

    @property
    def pictures(self) -> list[Picture]:
        """Those of all sections."""
        return [picture for section in self.sections for picture in section.pictures]


def write_document(
    document: Document, output: Path, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write NAME.md, .html, .tex and .csv, and beside Markdown its pictures; gives the files.

    The same document gives the same bytes but for the date, which SOURCE_DATE_EPOCH fixes.

    Raises:
        ConfigError: an unknown format.
        RunError: `output` is a file.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        given = unknown[0] if unknown else "none"
        raise ConfigError(f"Unknown report format {given!r}: choose from {', '.join(FORMATS)}")
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file: give a directory for the report")
    renderers = {"md": _markdown, "html": _html, "tex": _latex, "csv": _csv}
    files = {f"{document.name}.{name}": renderers[name](document).encode() for name in formats}
    if "md" in formats:
        files |= {picture.file: picture.data for picture in document.pictures}
    output.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        replace_file(output / name, data)
    return [output / name for name in files]


def today() -> str:
    """The date in UTC, or that of SOURCE_DATE_EPOCH."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return f"{moment:%Y-%m-%d}"


def _markdown(document: Document) -> str:
    return _render(markdown_environment().get_template("document.md"), document)


def _html(document: Document) -> str:
    return _render(html_environment().get_template("document.html"), document)


def _latex(document: Document) -> str:
    return _render(latex_environment().get_template("document.tex"), document)


def _render(template: Template, document: Document) -> str:
    return template.render(document=document, date=today(), version=__version__)


def _csv(document: Document) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [field.name for field in fields(Value)]
    writer.writerow(names)
    for value in document.values:
        writer.writerow([escape_formula(getattr(value, name)) for name in names])
    return stream.getvalue()
