"""Jinja environments for Markdown, HTML and LaTeX that escape every value."""

import re
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def markdown_environment() -> Environment:
    """Return the environment for GitHub's Markdown."""
    return _environment(finalize=lambda value: escape_markdown(str(value)))


def html_environment() -> Environment:
    """Return the environment for HTML."""
    return _environment(autoescape=True)


def latex_environment() -> Environment:
    """Return the environment for LaTeX, with << >> around values and <% %> around statements."""
    return _environment(
        finalize=lambda value: escape_latex(str(value)),
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )


def _environment(
    *, finalize: Callable[[Any], str] | None = None, autoescape: bool = False, **syntax: str
) -> Environment:
    return Environment(
        loader=PackageLoader("reports"),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **syntax,  # type: ignore[arg-type]
    )


def escape_markdown(text: str) -> str:
    """Return the text in one line, with Markdown and HTML markup escaped."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",  # after a line break, [ starts an optional argument, and * is a star form
    "*": "{*}",
    "–": "--",  # noqa: RUF001
    "…": r"\dots{}",
    "’": "'",  # noqa: RUF001
    "±": r"$\pm$",
    "−": "$-$",  # noqa: RUF001
    "×": r"$\times$",  # noqa: RUF001
    "λ": r"$\lambda$",
    "ⁱ": "$^i$",
} | {letter: f"$^{digit}$" for digit, letter in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}


def escape_latex(text: str) -> str:
    """Return the text in one line, with LaTeX commands escaped."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
