"""Write a page for each notebook, with its outputs."""

from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

NOTE = "*The notebook is `docs/notebooks/{}`; its cells are executed in every change of mpdiag.*"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add NAME.md and its pictures for each docs/notebooks/NAME.ipynb."""
    for path in sorted((Path(config.docs_dir) / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        text, resources = MarkdownExporter().from_notebook_node(
            notebook, {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
        )
        title, _, rest = text.partition("\n")
        page = f"{title}\n\n{NOTE.format(path.name)}\n{rest}"
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, data in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    return files
