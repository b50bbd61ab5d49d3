"""Analyses of diverged models, of modules that are in use, and with invalid options."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_cuda import pretend_cuda
from torch import Tensor, nn
from typer.testing import CliRunner

from apps.filmstrip import _describe
from apps.image_queries import read_image
from mpdiag.analysis import analyze
from mpdiag.analysis.module_state import preserve_state
from mpdiag.analysis.pipeline import default_output
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.cli import app, main
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.errors import ConfigError, RunError
from mpdiag.store import Run, compare
from reports import write_findings, write_report

LAYERS = 5  # 0..4 of the small model


@contextmanager
def corrupted(
    model: nn.Module, change: Callable[[int, int, Tensor], Tensor | None]
) -> Iterator[None]:
    """Replace mask logits by `change(forward pass, layer, logits)`."""
    calls = iter(range(10**6))

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
        return change(*divmod(next(calls), LAYERS), output)

    handle = model.decoder.hook_points.mask_logits.register_forward_hook(hook)  # type: ignore
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("layers", [{0, 4}, set(range(LAYERS))])
def test_run_of_a_diverged_model_opens(
    tmp_path: Path,
    small_checkpoint: LoadedCheckpoint,
    synthetic: SegmentationDataset,
    layers: set[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No prediction of `layers` is finite: their values are null, and the report names them."""
    with corrupted(
        small_checkpoint.model,
        lambda number, layer, logits: (
            torch.full_like(logits, torch.nan) if layer in layers else None
        ),
    ):
        summary = analyze(
            small_checkpoint, synthetic, tmp_path / "run", limit=2, save_masks="worst:3"
        )
    run = Run.open(tmp_path / "run")
    assert run.num_layers == len(summary["layers"]) == LAYERS - 1
    for layer in range(1, LAYERS):
        values = run.summary["layers"][layer - 1]
        assert (values["miou_l"] is None) == bool({layer - 1, layer} & layers)
        assert (values["empty_masks"] is None) == (layer in layers)
    assert summary["non_finite"] == len(layers) * 2 * 8
    for layer in layers:
        assert f"layer {layer} has no finite prediction" in caplog.text
    (report,) = write_report([tmp_path / "run"], tmp_path / "report", ["md"])[:1]
    named = ", ".join(map(str, sorted(layers)))
    assert f"no finite prediction in layer {named}" in report.read_text()
    write_findings([tmp_path / "run"], tmp_path / "findings")
    compare(run, run)
    image = read_image(run, synthetic.image_ids[0])
    for layer in image.layers(0):
        captions = _describe(run, layer, None, None)
        assert ("no finite prediction" in captions) == (layer.layer in layers)


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_image_without_finite_query_has_no_detections(
    tmp_path: Path,
    build_checkpoint: Callable[[int], LoadedCheckpoint],
    synthetic_root: Path,
    task: Any,
) -> None:
    """Such an image counts: its GT is missed."""
    data = load_dataset("synthetic", root=synthetic_root, task=task)
    checkpoint = build_checkpoint(len(data.classes))

    def score(name: str, bad_images: int) -> float:
        def change(number: int, layer: int, logits: Tensor) -> Tensor:
            changed = logits.clone()
            changed[:bad_images] = torch.nan
            return changed

        with corrupted(checkpoint.model, change):
            summary = analyze(checkpoint, data, tmp_path / name, limit=4)
        metric = {"instance": "ap", "panoptic": "pq", "semantic": "miou"}[task]
        assert summary["num_images"] == 4 and summary["non_finite"] == bad_images * 8 * LAYERS
        value: float = summary[metric][metric]
        return value

    some, none = score("some", 2), score("none", 4)
    assert none == 0 <= some
    if task == "semantic":
        assert 0 < some < score("whole", 0)
        detections = Run.open(tmp_path / "some").query(
            "SELECT count(DISTINCT image_id) images FROM detections"
        )
        assert detections["images"][0] == 2


def test_run_that_failed_at_the_end_is_resumed(
    tmp_path: Path,
    small_checkpoint: LoadedCheckpoint,
    synthetic: SegmentationDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not marked as finished before everything is written."""
    options = {"limit": 2, "save_masks": "worst:3"}
    whole = analyze(small_checkpoint, synthetic, tmp_path / "whole", **options)

    def fail(*arguments: object, **options: object) -> None:
        raise RunError("failed")

    for name in ("analysis.run.evaluate_run", "store.writer.summarize", "store.writer.connect"):
        run = tmp_path / name
        with monkeypatch.context() as context:
            context.setattr(f"mpdiag.{name}", fail)
            with pytest.raises(RunError, match="failed"):
                analyze(small_checkpoint, synthetic, run, **options)
        with pytest.raises(RunError, match="unfinished"):
            Run.open(run)
        resumed = analyze(small_checkpoint, synthetic, run, **options, resume=True)
        assert resumed == whole == Run.open(run).summary, name


def test_module_of_the_caller_keeps_its_modes(
    tmp_path: Path, small_checkpoint: LoadedCheckpoint, synthetic: SegmentationDataset
) -> None:
    """Also if the analysis fails. A frozen submodule stays in evaluation mode."""
    model = small_checkpoint.model.train()
    model.backbone.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert set(modes.values()) == {True, False}
    for checkpoint in (small_checkpoint, model):
        with pytest.raises(ConfigError):
            analyze(checkpoint, synthetic, tmp_path / "run", intervene=("attention=gt:99",))
        assert {name: module.training for name, module in model.named_modules()} == modes
    analyze(small_checkpoint, synthetic, tmp_path / "run", limit=1)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_module_of_the_caller_returns_to_its_devices() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)), nn.ReLU())
    with pretend_cuda([__file__]):
        module[1].to("cuda")
        with preserve_state(module):
            module.to("cuda").eval()
            assert {str(x.device) for x in module.state_dict().values()} == {"cuda:0"}
        devices = {name: str(x.device) for name, x in module.state_dict().items()}
    assert {devices[name] for name in devices if name.startswith("0")} == {"cpu"}
    assert {devices[name] for name in devices if name.startswith("1")} == {"cuda:0"}
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--save-masks", "worst:" + "9" * 5000),
        ("--save-masks", "worst:-1"),
        ("--save-masks", "x" * 5000),
        ("--match-points", "9" * 5000),
        ("--match-points", str(10**12)),
        ("--limit", "9" * 5000),
        ("--limit", "-" + "9" * 5000),
        ("--limit", "1e3"),
        ("--part", "x" * 5000),
        ("--device", "cuda:99999999999"),
        ("--device", "\x1b[31m" + "x" * 5000),
        ("--device", "meta"),
        ("--intervene", "attention=gt:1-" + "9" * 5000),
        ("--intervene", "attention=" + "x" * 5000),
        ("--intervene", "attention=previous:1" + ",1" * 5000),
    ],
)
def test_invalid_option_is_an_error_of_one_line(
    tmp_path: Path,
    small_checkpoint: LoadedCheckpoint,
    synthetic_root: Path,
    arguments: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mpdiag.analysis.pipeline.open_model", lambda *_: small_checkpoint)
    given = ["analyze", "user/model", "--dataset", "synthetic", "--root", str(synthetic_root)]
    words = ["mpdiag", *given, "--output", str(tmp_path / "run"), *arguments]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match="2"):
        main()
    message = capsys.readouterr().err.rstrip("\n")
    assert message.startswith("error: ") and arguments[0] in message, message
    assert message.isprintable() and len(message) < 1100
    assert not (tmp_path / "run").exists()


def test_default_output(
    tmp_path: Path,
    small_checkpoint: LoadedCheckpoint,
    synthetic_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained").mkdir()
    for name in ("model_final.pth", "trained/model_final.pth", "trained/a1b2.pkl"):
        (tmp_path / name).write_bytes(b"")
    names = {
        "trained": "trained", "trained/a1b2.pkl": "a1b2",
        "model_final.pth": "model_final", "trained/model_final.pth": "trained-model_final",
        "trained/../model_final.pth": f"{tmp_path.name}-model_final",
        "org/model-v1.5": "model-v1.5", "org/a\x1b b": "a_b",
    }  # fmt: skip
    for checkpoint, name in names.items():
        assert default_output(checkpoint, "coco", "matching") == Path("runs") / f"{name}-coco"
    assert default_output(nn.Linear(1, 1), "../x", "piloted") == Path("runs/Linear-.._x-piloted")
    monkeypatch.setattr("mpdiag.analysis.pipeline.open_model", lambda *_: small_checkpoint)
    result = CliRunner().invoke(
        app,
        ["analyze", "trained", "--dataset", "synthetic", "--root", str(synthetic_root),
         "--limit", "1", "--part", "piloted", "--device", "cpu"],
    )  # fmt: skip
    run = "runs/trained-synthetic-piloted"
    assert result.stdout.strip() == run, result.output
    last = re.sub(r"\s+", " ", result.stderr.strip().splitlines()[-1])
    assert last == f"Next: mpdiag report {run}, or mpdiag dashboard {run}"
    assert Run.open(Path(run)).header["device"] == "cpu"
