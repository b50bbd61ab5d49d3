"""Starting the dashboard's server."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mpdiag.errors import RunError

PAGE = Path(__file__).parent / "dashboard.py"
OPTIONS = {
    "server.address": "localhost",
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "server.maxUploadSize": "20",
    "browser.gatherUsageStats": "false",
    "logger.level": "warning",
    "client.toolbarMode": "viewer",
    "theme.light.primaryColor": "#3b82c4",
    "theme.dark.primaryColor": "#3b82c4",
}


def launch(
    runs: Sequence[Path],
    port: int | None = None,
    headless: bool = False,
    checkpoint: Path | None = None,
) -> int:
    """Serve the dashboard over `runs` on localhost until it is interrupted.

    Without `port`, the first free one from 8501; `headless` opens no browser. `checkpoint` is
    what the page Live runs. Gives back the server's exit status. Raises RunError where a path is
    no run directory; one that can't be read shows that on the page.
    """
    for run in runs:
        if not (run / "run.json").is_file():
            raise RunError(f"{run} is not a run directory: give what mpdiag analyze wrote")
    try:
        return subprocess.run(command(runs, port, headless, checkpoint), check=False).returncode
    except KeyboardInterrupt:
        return 0


def command(
    runs: Sequence[Path],
    port: int | None = None,
    headless: bool = False,
    checkpoint: Path | None = None,
) -> list[str]:
    """The command line that `launch` runs."""
    options = {**OPTIONS, "server.headless": str(headless).lower()}
    if port is not None:
        options["server.port"] = str(port)
    flags = [f"--{name}={value}" for name, value in options.items()]
    # -P: no module is taken from the current directory, which may be a stranger's run.
    streamlit = [sys.executable, "-P", "-m", "streamlit", "run", str(PAGE)]
    given = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    return [*streamlit, *flags, "--", *given, *(str(Path(run).resolve()) for run in runs)]
