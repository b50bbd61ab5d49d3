"""Start the dashboard's Streamlit server."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mpdiag.errors import RunError

SCRIPT = Path(__file__).parent / "dashboard.py"
FIRST_PORT = 8501
ALLOWED_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Host headers that the server accepts, against DNS rebinding."""
OPTIONS = {
    "server.address": "localhost",
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "server.maxUploadSize": "20",
    "browser.gatherUsageStats": "false",
    "logger.level": "warning",
    "logger.hideWelcomeMessage": "true",  # also hides a promotion over the controls
    "client.toolbarMode": "viewer",
    "theme.light.primaryColor": "#2b6ca8",
    "theme.dark.primaryColor": "#79b0e6",
}


def launch(
    runs: Sequence[Path],
    port: int | None = None,
    headless: bool = False,
    checkpoint: Path | None = None,
    device: str | None = None,
) -> int:
    """Serve the dashboard on localhost until it is interrupted, and return the exit code.

    Args:
        runs: run directories. A run that cannot be read is reported on the page.
        port: default: the first free port from FIRST_PORT.
        headless: do not open a browser.
        checkpoint: default checkpoint of the Live page.
        device: device of the Live page, by default the current GPU, else the CPU.

    Raises:
        RunError: a path is not a run directory.
    """
    for run in runs:
        if not (run / "run.json").is_file():
            raise RunError(
                f"{run}: not a run directory (no run.json); pass the output of mpdiag analyze"
            )
    port = port or _free_port()
    print(f"Dashboard: http://localhost:{port} (stop it with Ctrl+C)", flush=True)
    try:
        arguments = command(runs, port, headless, checkpoint, device)
        return subprocess.run(arguments, check=False).returncode
    except KeyboardInterrupt:
        return 0


def command(
    runs: Sequence[Path],
    port: int | None = None,
    headless: bool = False,
    checkpoint: Path | None = None,
    device: str | None = None,
) -> list[str]:
    """Return the command line that `launch` runs."""
    options = {**OPTIONS, "server.headless": str(headless).lower()}
    if port is not None:
        options["server.port"] = str(port)
    flags = [f"--{name}={value}" for name, value in options.items()]
    flags += [f"--server.allowedHosts={host}" for host in ALLOWED_HOSTS]
    # -P: do not import modules from the current directory, which may hold untrusted files.
    streamlit = [sys.executable, "-P", "-m", "streamlit", "run", str(SCRIPT)]
    live = {"--checkpoint": checkpoint, "--device": device}
    arguments = [
        text for flag, value in live.items() if value is not None for text in (flag, str(value))
    ]
    return [*streamlit, *flags, "--", *arguments, *(str(Path(run).resolve()) for run in runs)]


def _free_port() -> int:
    for port in range(FIRST_PORT, FIRST_PORT + 100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RunError(f"no free port from {FIRST_PORT} to {FIRST_PORT + 99}; choose one with --port")
