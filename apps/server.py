"""Starting the dashboard's server."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parent / "inspector.py"
OPTIONS = {
    "server.address": "localhost",
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "browser.gatherUsageStats": "false",
    "logger.level": "warning",
    "client.toolbarMode": "viewer",
    "theme.light.primaryColor": "#3b82c4",
    "theme.dark.primaryColor": "#3b82c4",
}


def launch(runs: Sequence[Path], port: int | None = None, headless: bool = False) -> int:
    """Serve the dashboard over `runs` on localhost until it is interrupted.

    Without `port`, the first free one from 8501; `headless` opens no browser. Gives back the
    server's exit status. A run directory that can't be read is shown as an error on the page.
    """
    try:
        return subprocess.run(command(runs, port, headless), check=False).returncode
    except KeyboardInterrupt:
        return 0


def command(runs: Sequence[Path], port: int | None = None, headless: bool = False) -> list[str]:
    """The command line that `launch` runs."""
    options = {**OPTIONS, "server.headless": str(headless).lower()}
    if port is not None:
        options["server.port"] = str(port)
    flags = [f"--{name}={value}" for name, value in options.items()]
    streamlit = [sys.executable, "-m", "streamlit", "run", str(PAGE)]
    return [*streamlit, *flags, "--", *(str(Path(run).resolve()) for run in runs)]
