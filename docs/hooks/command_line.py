"""Write reference/cli.md from the commands of typer."""

from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from mpdiag.cli import app

PAGE = "reference/cli.md"
INTRODUCTION = """# Command line

Every command runs with its required arguments alone; the options have defaults. The last line of a
command says what to run next. Invalid input prints a one-line error and exits with code 2.
`mpdiag --debug COMMAND` prints the traceback.

"""
Command = Any  # of click, or of the copy of click in newer releases of typer


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page."""
    files.append(File.generated(config, PAGE, content=INTRODUCTION + "\n".join(_pages())))
    return files


def _pages() -> list[str]:
    group: Command = typer.main.get_command(app)
    return _sections(group, "mpdiag")


def _sections(command: Command, name: str) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    if hasattr(command, "commands"):
        inner = sorted(command.commands.items())
        return [section for key, value in inner for section in _sections(value, f"{name} {key}")]
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        f"## {name}\n",
        f"```\n{name} {usage}\n```\n",
        _plain(command.help or "") + "\n",
    ]
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [f"| {_code(label)} | {_cell(text)} |" for label, text in filter(None, records)]
    if rows:
        parts += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return ["\n".join(parts)]


def _code(text: str) -> str:
    return f"`{_plain(text)}`"


def _cell(text: str) -> str:
    """Return help text for a table; the brackets around a default are not a link."""
    text = _plain(text).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return text.replace("[", "\\[")


def _plain(text: str) -> str:
    paragraphs = [" ".join(part.split()) for part in text.replace("\f", "").split("\n\n")]
    return "\n\n".join(paragraphs)
