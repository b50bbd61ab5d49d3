import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import apps
from apps import server


def test_the_command_stays_on_this_machine_and_tells_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = server.command([Path("a"), tmp_path / "b"], port=8600, headless=True)
    assert command[:6] == [sys.executable, "-P", "-m", "streamlit", "run", str(server.PAGE)]
    for option in (
        "--server.address=localhost",
        "--browser.gatherUsageStats=false",
        "--server.fileWatcherType=none",
        "--server.showEmailPrompt=false",
        "--server.headless=true",
        "--server.port=8600",
    ):
        assert option in command
    assert command[command.index("--") + 1 :] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_launch_waits_for_the_server_and_gives_back_its_status(monkeypatch):
    monkeypatch.setattr(server, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    assert apps.launch([]) == 3


def test_an_interrupt_ends_the_dashboard_quietly(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    assert apps.launch([]) == 0


def test_the_server_answers_on_localhost_and_runs_nothing_of_the_directory(tmp_path):
    for name in ("streamlit", "pandas", "mpdiag", "reports"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger was here')")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        server.command([], port, headless=True), stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        assert answer(f"http://localhost:{port}/_stcore/health") == b"ok"
    finally:
        process.terminate()
        process.wait()


def answer(url, patience=60):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url) as response:
                return response.read()
        except urllib.error.URLError:
            time.sleep(0.2)
    pytest.fail(f"no answer from {url} within {patience} s")


def test_the_dashboard_imports_no_torch():
    code = "import sys, apps, apps.dashboard; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
