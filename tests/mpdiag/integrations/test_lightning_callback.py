"""The callback for Lightning, with a small model of the package rfdetr."""

import importlib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import mpdiag
from mpdiag.errors import ConfigError, RunError
from mpdiag.store.run import Run

from .test_monitor import Segmenter, left_and_right

LAYERS, QUERIES = 2, 7
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def _import(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.fixture(scope="module")
def model() -> Any:
    """Return the smallest model that RF-DETR's own classes build, with two groups of queries."""
    _import("rfdetr")
    config, models = (importlib.import_module(f"rfdetr.{name}") for name in ("config", "models"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it starts from random weights
        settings = config.RFDETRSegNanoConfig(
            pretrain_weights=None,
            num_classes=3,
            dec_layers=LAYERS,
            num_queries=QUERIES,
            num_select=QUERIES,
            group_detr=2,
            hidden_dim=32,
            sa_nheads=2,
            ca_nheads=2,
            resolution=48,
            positional_encoding_size=4,
            device="cpu",
        )
        torch.manual_seed(0)
        built = models.build_model_from_config(settings)
    built.aux_loss = True
    return built


def batch(count: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return images and GT; image k has k + 1 objects."""
    generator = torch.Generator().manual_seed(count)
    targets = [
        {
            "labels": torch.randint(0, 3, (index + 1,), generator=generator),
            "masks": torch.rand(index + 1, 48, 48, generator=generator) > 0.5,
        }
        for index in range(count)
    ]
    return torch.randn(count, 3, 48, 48, generator=generator), targets


@pytest.mark.parametrize("training", [True, False])
def test_rfdetr_has_the_queries_of_inference_in_all_layers(model: Any, training: bool) -> None:
    images, _ = batch(2)
    with mpdiag.record(model.train(training)) as recording, torch.no_grad():
        output = model(images)
    layers = [output["enc_outputs"], *output["aux_outputs"], output]
    assert len(layers) == LAYERS + 1
    assert recording.query.shape[:3] == (LAYERS + 1, 2, QUERIES)
    for layer, found in enumerate(layers):
        masks = found["pred_masks"]
        if training:  # factors of the masks of both groups
            parts = masks["query_features"], masks["spatial_features"]
            masks = torch.einsum("bnc,bchw->bnhw", *parts) + masks["bias"]
            assert masks.shape[1] == 2 * QUERIES
        own = recording.class_logits[layer]
        torch.testing.assert_close(own[..., :-1], found["pred_logits"][:, :QUERIES])
        torch.testing.assert_close(recording.mask_logits[layer], masks[:, :QUERIES])


@pytest.mark.filterwarnings("ignore")  # of Lightning
def test_trainer_logs_layers_of_training_and_validation(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lightning = _import("pytorch_lightning")
    model.train()  # Lightning keeps the mode of each module
    from mpdiag.integrations.lightning import LayerDiagnosticsCallback

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss: Tensor = self.model(batch[0])["pred_logits"].square().mean()
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.model(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-4)

    logged: list[tuple[int, dict[str, float]]] = []
    logger = lightning.loggers.CSVLogger(tmp_path)
    monkeypatch.setattr(logger, "log_metrics", lambda metrics, step: logged.append((step, metrics)))
    trainer = lightning.Trainer(
        max_steps=4,
        accumulate_grad_batches=2,
        precision="bf16-mixed",
        accelerator="cpu",
        callbacks=[LayerDiagnosticsCallback(every=2, val_images=2, run=tmp_path / "run")],
        logger=logger,
        log_every_n_steps=3,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=1,
    )
    train, val = ([batch(2), batch(1)] * count for count in (4, 1))
    loaders = (torch.utils.data.DataLoader(data, batch_size=None) for data in (train, val))
    trainer.fit(Module(), *loaders)
    training = [(step, values) for step, values in logged if "util/0" in values]
    assert [step for step, _ in training] == [2, 4]
    assert {f"miou_l/{layer}" for layer in range(1, LAYERS + 1)} <= training[0][1].keys()
    assert training[0][1]["loss_mask/0"] > 0
    # Three images in two batches, with 1, 2 and 1 GT; each GT has its own query in the last layer.
    assert training[0][1]["util/2"] == 1
    run = Run.open(tmp_path / "run")
    assert run.summary["num_images"] == 2  # of the validation after the epoch
    for layer in run.summary["layers"]:
        value = float(trainer.callback_metrics[f"val/miou_l/{layer['layer']}"])
        assert value == pytest.approx(layer["miou_l"], abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # of Lightning
@pytest.mark.parametrize("hook", ["setup", "configure_model"])
def test_a_model_that_lightning_builds_late_and_has_a_copy(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    lightning = _import("pytorch_lightning")
    from mpdiag.integrations.lightning import LayerDiagnosticsCallback

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def build(self, *_: Any, **__: Any) -> None:
            self.student, self.teacher = Segmenter(), Segmenter()

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            self.teacher(batch)
            return self.student(batch)  # type: ignore[no-any-return]

        def validation_step(self, batch: Tensor, index: int) -> None:
            self.student(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.student.parameters(), 0.0)

    asked: list[Any] = []

    def targets(batch: Any) -> Any:
        asked.append(batch)
        return [left_and_right()]

    setattr(Module, hook, Module.build)
    module, callback = Module(), LayerDiagnosticsCallback(model="student", every=4, targets=targets)
    trainer = lightning.Trainer(max_steps=4, callbacks=[callback], **QUIET)
    loader = torch.utils.data.DataLoader(torch.ones(4, 3, 8, 16))
    trainer.fit(module, loader)
    # As computed by hand in test_monitor.py; the GT are those of the one step that is measured.
    assert float(trainer.callback_metrics["miou_l/1"]) == pytest.approx((1 + 0) / 2)
    assert len(asked) == 1
    first = callback.monitor
    trainer.validate(module, loader, verbose=False)  # builds the models anew
    assert float(trainer.callback_metrics["val/miou_l/1"]) == pytest.approx((1 + 0) / 2)
    assert callback.monitor is not first and len(asked) == 1 + 4
    for measured in (module.validation_step, lambda *_: None):
        module.validation_step = measured  # type: ignore[method-assign]
        callback = LayerDiagnosticsCallback(
            model="student",
            targets=lambda batch: [left_and_right()] * 2,  # of crops, for example
        )
        again = lightning.Trainer(callbacks=[callback], **QUIET)
        again.validate(module, loader, verbose=False)
        again.validate(module, loader, verbose=False)
    messages = [one.getMessage() for one in caplog.records if one.name.startswith("mpdiag")]
    assert [message.partition(":")[0].partition(";")[0] for message in messages] == [
        "this batch of the validation is not measured",
        "no pass of the validation was measured",
    ]
    with pytest.raises(ConfigError, match=r"model = 'pupil': is not in Module .*; give the path"):
        lightning.Trainer(callbacks=[LayerDiagnosticsCallback(model="pupil")], **QUIET).fit(
            module, loader
        )


def segmenter_module(lightning: Any) -> Any:
    """Return a module with a `Segmenter`, which does not change in training."""

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = Segmenter()

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            return self.model(batch)  # type: ignore[no-any-return]

        def validation_step(self, batch: Tensor, index: int) -> None:
            self.model(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.0)

    return Module()


@pytest.mark.filterwarnings("ignore")  # of Lightning
def test_the_package_lightning_trains_with_the_callback_and_its_sanity_check_is_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lightning = _import("lightning.pytorch")
    from mpdiag.integrations.lightning import LayerDiagnosticsCallback

    loader = torch.utils.data.DataLoader(torch.ones(4, 3, 8, 16))

    def train(run: Path, steps: int) -> None:
        callback = LayerDiagnosticsCallback(targets=lambda _: [left_and_right()], run=run)
        # LightningCLI and typed code accept only this class.
        assert isinstance(callback, lightning.Callback)
        trainer = lightning.Trainer(
            max_steps=steps, val_check_interval=2, callbacks=[callback], **QUIET
        )
        trainer.fit(segmenter_module(lightning), loader, loader)

    train(tmp_path / "before", 1)  # only the check before the training ran the validation
    assert not (tmp_path / "before").exists()
    assert "no held-out image with GT was measured" in caplog.text
    train(tmp_path / "run", 3)  # the last validation follows step 2
    run = Run.open(tmp_path / "run")
    assert run.summary["num_images"] == 4
    assert run.header["settings"]["step"] == 2
    with pytest.raises(RunError, match="run: exists, but a new run is to be written"):
        train(tmp_path / "run", 1)


@pytest.mark.filterwarnings("ignore")  # of Lightning
def test_a_training_that_fails_leaves_no_hooks() -> None:
    lightning = _import("pytorch_lightning")
    from mpdiag.integrations.lightning import LayerDiagnosticsCallback

    def fails(batch: Tensor, batch_idx: int) -> Tensor:
        module.model(batch)
        raise RuntimeError("out of memory")

    module = segmenter_module(lightning)
    module.training_step = fails
    trainer = lightning.Trainer(
        max_steps=1,
        callbacks=[LayerDiagnosticsCallback(every=1)],
        **QUIET,
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(module, torch.utils.data.DataLoader(torch.ones(1, 3, 8, 16)))
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in module.modules())


def test_batches_without_gt_give_the_metrics_of_masks(model: Any) -> None:
    monitor = mpdiag.LayerMonitor(model.train(), every=1)
    model(batch(1)[0])
    assert not any(name.startswith("util") for name in monitor.step())
    monitor.close()
