"""A report as a document: sections of text, highlights, tables and pictures.

Write a document as Markdown, HTML, LaTeX and CSV with `write_document`.
"""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Template

from mpdiag import __version__
from mpdiag.errors import ConfigError, RunError
from mpdiag.store.files import replace_file
from reports.formatting import to_csv
from reports.templating import html_environment, latex_environment, markdown_environment

FORMATS = ("md", "html", "tex", "csv")
_MEDIA_TYPES = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Row:
    """Cells of a table, labels first.

    Attributes:
        muted: show the row in grey.
        starts_group: draw a rule above the row and its first cell in bold.
    """

    cells: tuple[str, ...]
    muted: bool = False
    starts_group: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first `label_columns` columns hold text; the others hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    label_columns: int = 1


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with its file name and alternative text; `thumbnail` shows it small."""

    file_name: str
    data: bytes
    caption: str
    alt: str
    thumbnail: bool = False

    @property
    def data_uri(self) -> str:
        """The picture as a data URI, so that an HTML page needs no other file."""
        media_type = _MEDIA_TYPES[self.file_name.rpartition(".")[2]]
        return f"data:{media_type};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True, slots=True)
class Highlight:
    """A main result in one line: its label (or verdict), what it is about, and its value."""

    label: str
    text: str
    value: str
    published: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document under a heading; `facts` are pairs of label and text."""

    title: str
    text: tuple[str, ...] = ()
    highlights: tuple[Highlight, ...] = ()
    remarks: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A report.

    Attributes:
        name: stem of the files.
        csv_columns, csv_rows: content of the CSV. Shares are fractions; None is unknown.
    """

    name: str
    title: str
    sections: tuple[Section, ...]
    csv_columns: tuple[str, ...] = ()
    csv_rows: tuple[tuple[Any, ...], ...] = ()


def write_document(
    document: Document, output: Path, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write NAME.md, NAME.html, NAME.tex and NAME.csv, and the pictures of the Markdown.

    The files depend on the document only, except for the date (see `report_date`).

    Returns:
        The files.

    Raises:
        ConfigError: a format is unknown.
        RunError: `output` is a file.
    """
    check_output(output, formats)
    renderers = {"md": _markdown, "html": render_html, "tex": _latex, "csv": _csv}
    files = {f"{document.name}.{name}": renderers[name](document) for name in formats}
    if "md" in formats:
        pictures = [picture for section in document.sections for picture in section.pictures]
        files |= {picture.file_name: picture.data for picture in pictures}
    output.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        replace_file(output / name, data)
    return [output / name for name in files]


def check_output(output: Path, formats: Sequence[str]) -> None:
    """Check the directory, the formats and the date of a report.

    Raises:
        ConfigError: a format is unknown, there is none, or SOURCE_DATE_EPOCH is invalid.
        RunError: `output` is a file.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        given = unknown[0] if unknown else "none"
        raise ConfigError(f"unknown report format {given!r}; choose from {', '.join(FORMATS)}")
    if output.exists() and not output.is_dir():
        raise RunError(f"{output}: is a file; give a directory for the report")
    report_date()


def report_date() -> str:
    """Return the date of SOURCE_DATE_EPOCH if it is set, else today's date in UTC."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"SOURCE_DATE_EPOCH = {epoch}: is no date; give seconds") from None
    return f"{moment:%Y-%m-%d}"


def _markdown(document: Document) -> bytes:
    return _render(markdown_environment().get_template("document.md"), document)


def render_html(document: Document) -> bytes:
    """Return the document as one HTML page that needs no other file."""
    return _render(html_environment().get_template("document.html"), document)


def _latex(document: Document) -> bytes:
    return _render(latex_environment().get_template("document.tex"), document)


def _render(template: Template, document: Document) -> bytes:
    return template.render(document=document, date=report_date(), version=__version__).encode()


def _csv(document: Document) -> bytes:
    return to_csv(pd.DataFrame(document.csv_rows, columns=document.csv_columns, dtype=object))
