"""Training steps and analysed images on the pretended CUDA device: results and waits."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pretend_cuda import Ledger, pretend_cuda
from torch import Tensor

import mpdiag
import trainers
from mpdiag.analysis.build_adapter import build_adapter
from mpdiag.analysis.measure import MeasuredImage, Measurer
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.analysis.settings import AnalysisSettings
from mpdiag.checkpoints import LoadedCheckpoint, load_checkpoint, save_checkpoint
from mpdiag.config import TrainConfig
from mpdiag.data import Sample, SegmentationDataset, generate_synthetic, load_dataset
from mpdiag.evaluation import build_evaluator
from mpdiag.models import Mask2Former
from mpdiag.ops import use_backend
from trainers.distributed import DistributedContext
from trainers.prefetch import prefetch
from trainers.recipe import load_recipe
from trainers.trainer import Trainer

ROOTS = [str(Path(package.__path__[0])) for package in (mpdiag, trainers)]
SETTINGS = (
    "model.num_classes=7",
    "model.label_embedding=true",
    "model.hidden_dim=32",
    "model.mask_dim=32",
    "model.encoder_layers=2",
    "model.decoder_layers=2",
    "model.num_queries=12",
    "model.backbone={name: resnet18, channels: [8, 8, 16, 16], stem_channels: 8, norm: batch}",
    "init=null",
    "pilot.num_queries=12",
    "loss.num_points=64",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=1, val=2, size=64)
    return load_dataset("synthetic", root=root)


@pytest.fixture
def device() -> Iterator[Ledger]:
    """Run the test on the pretended device, with the only attention that does not need a GPU."""
    with use_backend("plain"), pretend_cuda(ROOTS) as ledger:
        yield ledger


def trainer_of(*changes: str, world_size: int = 1) -> Trainer:
    config = load_recipe("synthetic-tiny", [*SETTINGS, *changes])
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return Trainer(config, (), DistributedContext(0, world_size, device))


def take_step(trainer: Trainer, samples: list[Sample]) -> dict[str, float]:
    losses, norm = trainer.step(samples, range(len(samples)))
    return {"norm": norm.item(), **trainer.distributed.mean(losses)}


BUDGETS = {  # losses' finiteness, gradient norm; with matching, one more
    "method=piloted": 3,
    "method=piloted pilot.variant=official": 3,
    "method=piloted pilot.noise=shift": 3,
    "method=piloted pilot.noise=scale loss.num_points=all": 3,
    "method=piloted pilot.query_input=mask-code": 3,
    "method=piloted pilot.query_input=feature-mean": 3,
    "method=piloted gradient_accumulation_steps=2": 5,
    "method=baseline": 3,
    "method=baseline precision=bf16": 3,
    "method=fixed-matching+auxiliary-loss": 3,
    "method=gt-mask-guided": 3,
    "method=per-pixel": 2,
}


@pytest.mark.parametrize("changes", BUDGETS)
def test_step_waits_as_often_as_budgeted(
    data: SegmentationDataset, device: Ledger, changes: str
) -> None:
    trainer = trainer_of(*changes.split())
    device.counts.clear()
    trainer.step([data[0], data[1]], range(2))
    assert device.counts.total() == BUDGETS[changes], str(device)


@pytest.mark.parametrize("changes", ["method=piloted", "method=gt-mask-guided", "method=per-pixel"])
def test_step_equals_the_cpu(data: SegmentationDataset, changes: str) -> None:
    samples = [data[0], data[1]]
    # The generators of both devices are the same here, so all random numbers are too.
    with use_backend("plain"):
        expected = take_step(trainer_of(changes), samples)
        with pretend_cuda(ROOTS):
            (copied,) = prefetch(iter([samples]), torch.device("cuda", 0))
            found = take_step(trainer_of(changes), copied)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("query_input", ["attention-mask", "mask-code", "feature-mean"])
def test_step_without_gt(data: SegmentationDataset, device: Ledger, query_input: str) -> None:
    sample = data[0]
    sample.masks, sample.labels = sample.masks[:0], sample.labels[:0]
    trainer = trainer_of("method=piloted", f"pilot.query_input={query_input}")
    losses, _ = trainer.step([sample], [0])
    assert losses["loss_mask_dn"].item() == 0


def test_synchronized_batch_norm_keeps_the_activation(
    data: SegmentationDataset, device: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.trainer.DistributedDataParallel", lambda method, **_: method)
    backbone = "model.backbone={name: regnetx_002, channels: null, stem_channels: 64, norm: batch}"
    alone, both = (trainer_of(backbone, world_size=size).model.eval() for size in (1, 2))
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in both.modules())
    image = alone.preprocess([data[0].image.to("cuda")])
    with torch.no_grad():
        outputs = zip(both.backbone(image), alone.backbone(image), strict=True)
        assert all(torch.equal(found.cpu(), expected.cpu()) for found, expected in outputs)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, data: SegmentationDataset) -> LoadedCheckpoint:
    config: TrainConfig = load_recipe("synthetic-tiny", SETTINGS)
    torch.manual_seed(0)
    model = Mask2Former(config.model)
    path = tmp_path_factory.mktemp("checkpoint") / "model.pth"
    save_checkpoint(path, model)
    found = load_checkpoint(path)
    found.recipe = config
    return found


@pytest.fixture
def measurer(loaded: LoadedCheckpoint, data: SegmentationDataset) -> Callable[..., Measurer]:
    def build(**options: object) -> Measurer:
        chosen = AnalysisOptions(**options)
        adapter = build_adapter(loaded, data, chosen)
        settings = AnalysisSettings.derive(adapter.info.settings, chosen)
        return Measurer(adapter, settings, build_evaluator(data) if chosen.evaluate else None)

    return build


@pytest.mark.parametrize(("options", "budget"), [({"evaluate": False}, 3), ({}, 6)])
def test_analysed_image_waits_as_often_as_budgeted(
    data: SegmentationDataset, measurer, device: Ledger, options: dict[str, bool], budget: int
) -> None:
    measure = measurer(**options)
    list(measure.measure([[data[0]]]))
    device.counts.clear()
    list(measure.measure([[data[1]]]))
    assert device.counts.total() == budget, str(device)


def test_analysed_image_equals_the_cpu(data: SegmentationDataset, measurer) -> None:
    with use_backend("plain"):
        (expected,) = measurer().measure([[data[0]]])
        with pretend_cuda(ROOTS):
            (found,) = measurer().measure([[data[0]]])
    for name in ("area", "intersection", "matched_gt", "best_gt", "label", "gt_area", "finite"):
        assert torch.equal(value(found, name), value(expected, name)), name
    for name in ("score", "matched_gt_iou", "best_gt_iou", "center", "gt_covered", "util"):
        torch.testing.assert_close(value(found, name), value(expected, name), equal_nan=True)


def value(image: MeasuredImage, name: str) -> Tensor:
    tensor: Tensor = getattr(image.rows, name)
    return tensor
