"""Watch the decoder layers of a Mask2Former while mmdetection trains it.

Give the hook to the runner of your config:

    runner = Runner.from_cfg(Config.fromfile("mask2former_r50_8xb2-lsj-50e_coco.py"))
    runner.register_hook(LayerDiagnosticsHook())
    runner.train()
"""

from typing import Any

from mmengine.hooks import Hook

import mpdiag


class LayerDiagnosticsHook(Hook):
    """Adds the layer metrics and losses to the log, every `every` steps."""

    def __init__(self, every: int = 50) -> None:
        self.every = every

    def before_train(self, runner: Any) -> None:
        self.monitor = mpdiag.LayerMonitor(runner.model, every=self.every)
        self.monitor.iteration = runner.iter  # of a resumed training

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for name, value in self.monitor.step().items():
            runner.message_hub.update_scalar(f"train/{name}", value)

    def after_train(self, runner: Any) -> None:
        self.monitor.close()
