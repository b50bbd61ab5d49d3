"""One of two processes of test_distributed.py, of which only the first gets an image."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import mpdiag

from .test_monitor import Segmenter, left_and_right

IMAGE = torch.ones(1, 3, 8, 16)


def without_image(monitor: mpdiag.LayerMonitor) -> dict[str, str]:
    """Return the error of a step that no process has a pass for."""
    try:
        monitor.step()
    except mpdiag.errors.RecordingError as error:
        return {"error": str(error)}
    return {}


def measure(folder: Path, rank: int) -> dict[str, Any]:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=1)
    found: dict[str, Any] = {"nothing": without_image(monitor)}
    if rank == 0:
        model(IMAGE).backward()
    found["step"] = monitor.step([left_and_right()] if rank == 0 else None)
    model.eval()
    monitor.start_evaluation()
    if rank == 0:
        model(IMAGE)
        monitor.measure([left_and_right()])
    found["evaluation"] = monitor.finish_evaluation()
    monitor.write_run(folder / "run")
    monitor.close()
    return found


def run_hook(folder: Path, rank: int) -> None:
    """Let detectron2's hook measure three held-out images, which all processes are given."""
    try:
        import detectron2.engine  # noqa: F401
    except ModuleNotFoundError:  # the hook needs two names of it
        names = ("detectron2", "detectron2.engine", "detectron2.engine.hooks")
        modules = {name: ModuleType(name) for name in names}
        modules["detectron2.engine"].HookBase = object  # type: ignore[attr-defined]
        modules["detectron2.engine.hooks"].PeriodicWriter = object  # type: ignore[attr-defined]
        sys.modules |= modules
    from mpdiag.integrations.detectron2 import LayerDiagnosticsHook

    class Model(Segmenter):
        def forward(self, batch: list[dict[str, Any]]) -> torch.Tensor:  # type: ignore[override]
            return super().forward(torch.stack([one["image"] for one in batch]))

    model: nn.Module = nn.parallel.DistributedDataParallel(Model())
    target = left_and_right()
    truth = SimpleNamespace(
        gt_classes=target["labels"],
        gt_masks=target["masks"],
        image_size=(8, 16),
        has=lambda name: True,
    )
    batches = [[{"image": IMAGE[0], "instances": truth}] for _ in range(3)]
    hook = LayerDiagnosticsHook(every=9, held_out=batches, run=folder / "hook")
    storage = SimpleNamespace(put_scalar=lambda *_, **__: None)
    hook.trainer = SimpleNamespace(
        model=model, _hooks=[hook], start_iter=0, iter=0, max_iter=1, storage=storage
    )
    hook.before_train()
    hook.after_step()
    hook.trainer.iter = 1  # of a training that is finished
    hook.after_train()


def save(folder: Path) -> None:
    """Run one of the processes and save what it measures."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    rank = dist.get_rank()
    found = measure(folder, rank)
    run_hook(folder, rank)
    # A collective of the user pairs with itself.
    total = torch.tensor(rank + 1)
    dist.all_reduce(total)
    found["total"] = int(total)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
