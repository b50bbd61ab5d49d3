"""The Streamlit server of the dashboard."""

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


def test_command_is_local_and_sends_no_statistics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = server.command([Path("a"), tmp_path / "b"], port=8600, headless=True)
    assert command[:6] == [sys.executable, "-P", "-m", "streamlit", "run", str(server.SCRIPT)]
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
    live = server.command([], checkpoint=Path("m.pth"), device="cuda:1")
    assert live[live.index("--") + 1 :] == ["--checkpoint", "m.pth", "--device", "cuda:1"]


def test_launch_returns_the_exit_code_of_the_server(monkeypatch):
    monkeypatch.setattr(server, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    assert apps.launch([]) == 3


def test_launch_uses_and_prints_the_first_free_port(monkeypatch, capsys):
    ports = []
    monkeypatch.setattr(server, "command", lambda _, port, *__: ports.append(port) or ["true"])
    with socket.create_server(("localhost", 0)) as used:
        first = used.getsockname()[1]
        monkeypatch.setattr(server, "FIRST_PORT", first)
        assert apps.launch([]) == apps.launch([], port=9000) == 0
    assert first < ports[0] < first + 100 and ports[1] == 9000
    assert f"http://localhost:{ports[0]}" in capsys.readouterr().out


def test_interrupt_exits_without_a_traceback(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    assert apps.launch([]) == 0


def test_server_answers_and_does_not_import_from_the_current_directory(tmp_path):
    for name in ("streamlit", "pandas", "mpdiag", "reports"):
        (tmp_path / f"{name}.py").write_text(
            "raise SystemExit('imported from the current directory')"
        )
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


def answer(url, timeout=60):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url) as response:
                return response.read()
        except urllib.error.URLError:
            time.sleep(0.2)
    pytest.fail(f"no answer from {url} within {timeout} s")


def test_dashboard_does_not_import_torch():
    code = "import sys, apps, apps.dashboard; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
