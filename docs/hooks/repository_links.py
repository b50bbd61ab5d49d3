"""Point links to files outside of docs/ at the repository, and those to notebooks at pages."""

import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Rewrite links that leave docs/ or name a notebook, which are right in a checkout."""

    def rewrite(match: re.Match[str]) -> str:
        path, _, anchor = match[1].partition("#")
        target = posixpath.normpath(
            posixpath.join("docs", posixpath.dirname(page.file.src_uri), path)
        )
        if not path or target.startswith("docs/"):
            return match[0].replace(".ipynb", ".md")
        suffix = f"#{anchor}" if anchor else ""
        return f"]({config.extra['repository']}/blob/main/{target}{suffix})"

    return LINK.sub(rewrite, markdown)
