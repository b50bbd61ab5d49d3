"""Execute the notebooks and keep their outputs: python docs/notebooks/execute.py [--check]

`--check` executes them and changes no file.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(path: Path, *, keep: bool) -> None:
    """Run all cells; an error of a cell ends the script with the traceback."""
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(FOLDER))
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":  # progress messages, which name folders of this machine
            cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    if keep:
        nbformat.write(notebook, path)
    print(f"{path.name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        execute(notebook, keep="--check" not in sys.argv)
