"""Hub ids, with a mocked download."""

from importlib import import_module
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from mpdiag.checkpoints.hub import is_hub_id, local_path
from mpdiag.errors import CheckpointError


def test_hub_ids_and_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("facebook/maskformer-swin-tiny-coco")
    assert not is_hub_id("models/model_final.pth")
    assert not is_hub_id(tmp_path / "model")
    assert not is_hub_id("baseline")
    (tmp_path / "runs").mkdir()
    assert not is_hub_id("runs/baseline")  # does not exist
    assert local_path("runs/baseline") == Path("runs/baseline")


def test_downloads_settings_and_weights_but_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[tuple[str, list[str]]] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        requested.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert local_path("owner/model") == tmp_path
    assert [name for name, _ in requested] == ["owner/model"]
    patterns = requested[0][1]
    assert "model*.safetensors" in patterns and not any("bin" in pattern for pattern in patterns)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    assert local_path("owner/model") == tmp_path
    assert "pytorch_model*.bin" in requested[2][1]
    assert not any(
        pattern.endswith("py") or pattern == "*" for _, some in requested for pattern in some
    )


# The HTTP library of huggingface_hub, whose name differs between its versions.
httpx: Any = import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


def missing() -> Exception:
    request = httpx.Request("GET", "https://example.org")
    return RepositoryNotFoundError("404\nNot found", response=httpx.Response(404, request=request))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (missing(), r"has no such model, .*\(RepositoryNotFoundError: 404\); check the name"),
        (HFValidationError("bad name"), "has no such model"),
        (
            LocalEntryNotFoundError("Cannot find it.\nTo enable look-ups ..."),
            r"hub can't be read .*: Cannot find it\.\); check the connection, or give a local",
        ),
        (httpx.ProxyError("407"), r"hub can't be read \(ProxyError: 407\)"),
        (httpx.RemoteProtocolError("closed"), "hub can't be read"),
        (OSError(28, "No space left"), "hub can't be read .*No space left"),
    ],
)
def test_failed_download_is_a_one_line_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message) as caught:
        local_path("owner/model")
    assert str(caught.value).startswith("owner/model: no such file or directory, and the Hugging")
    assert "\n" not in str(caught.value)
