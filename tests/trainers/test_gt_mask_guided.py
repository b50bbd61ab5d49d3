"""GT-mask-guided learning against a slow reference: masks, inputs, losses, gradients, command."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from mpdiag.cli import main
from mpdiag.data import Sample
from mpdiag.models import Mask2Former
from trainers.loop import train
from trainers.methods import Batch, CombinedMethod, Randomness, build_method
from trainers.methods.gt_mask_guided import guided_predictions
from trainers.methods.method import TrainingStep

CPU = torch.device("cpu")
SIDE, LAYERS, QUERIES = 64, 3, 12


def boxes(*corners: tuple[int, int, int, int]) -> Tensor:
    masks = torch.zeros(len(corners), SIDE, SIDE, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


@pytest.fixture
def batch() -> Batch:
    """Three images: three objects, one of them of a single pixel; one object; no object."""
    generator = torch.Generator().manual_seed(0)
    masks = [
        boxes((3, 5, 30, 41), (40, 40, 41, 41), (20, 0, 60, 18)),
        boxes((10, 30, 50, 64)),
        boxes(),
    ]
    samples = [
        Sample(
            image_id=index,
            file_name=f"{index}.jpg",
            image=torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
            masks=found,
            labels=torch.arange(len(found)) % 3,
            original_size=(SIDE, SIDE),
        )
        for index, found in enumerate(masks)
    ]
    return Batch.from_samples(samples, Randomness.for_step(0, 0, range(len(samples)), CPU))


@pytest.fixture
def method(small_recipe) -> CombinedMethod:
    config = small_recipe(
        "model.num_classes=3", "method=gt-mask-guided", "gt_mask_guided.weight=0.5"
    )
    torch.manual_seed(0)
    return build_method(Mask2Former(config.model), config)


def step_of(method: CombinedMethod, batch: Batch) -> TrainingStep:
    return method.step(batch, method.normalizers(batch.targets))


def test_each_layer_runs_on_its_own_output_within_the_gt_of_the_last_layer(
    method: CombinedMethod, batch: Batch
) -> None:
    step = step_of(method, batch)
    assignment = step.assignment[-1]
    calls: list[tuple[int, Tensor, Tensor]] = []
    for index, layer in enumerate(method.model.decoder.layers):
        layer.register_forward_pre_hook(
            lambda _, inputs, index=index: calls.append((index, inputs[0], inputs[4]))
        )
    guided_predictions(step, assignment)
    assert [index for index, _, _ in calls] == list(range(LAYERS))
    for index, query, visible in calls:
        assert torch.equal(query, step.output.matching.queries[index + 1])
        cells = (2, 4, 8)[index]  # strides 32, 16, 8
        stride = SIDE // cells
        for image, target in enumerate(batch.targets):
            for number, gt in enumerate(assignment[image].tolist()):
                expected = torch.ones(cells, cells, dtype=torch.bool)
                if gt >= 0:
                    for row in range(cells):
                        for column in range(cells):
                            rows = slice(row * stride, (row + 1) * stride)
                            columns = slice(column * stride, (column + 1) * stride)
                            expected[row, column] = target["masks"][gt, rows, columns].any()
                assert torch.equal(visible[image, number].view(cells, cells), expected)
    matched = [(image >= 0).sum().item() for image in assignment]
    assert matched == [3, 1, 0]


def test_losses_equal_a_slow_reference(method: CombinedMethod, batch: Batch) -> None:
    step = step_of(method, batch)
    losses = method(batch, step.normalizers)
    with torch.no_grad():
        class_logits, mask_logits = guided_predictions(step, step.assignment[-1])
    num_masks, weights = 4, 4 + 0.1 * (3 * QUERIES - 4)
    for layer in range(LAYERS):
        class_loss = mask_loss = dice_loss = 0.0
        for image, target in enumerate(batch.targets):
            for query, gt in enumerate(step.assignment[-1, image].tolist()):
                log_probability = class_logits[layer, image, query].log_softmax(0)
                if gt < 0:
                    class_loss -= 0.1 * log_probability[3].item()
                    continue
                class_loss -= log_probability[target["labels"][gt]].item()
                # The GT at the centre of a cell is the mean of the four pixels around it.
                center = target["masks"][gt].float().view(16, 4, 16, 4)[:, 1:3, :, 1:3].mean((1, 3))
                logits = mask_logits[layer, image, query]
                mask_loss += F.binary_cross_entropy_with_logits(logits, center).item()
                p = logits.sigmoid()
                dice = 1 - (2 * (p * center).sum() + 1) / (p.sum() + center.sum() + 1)
                dice_loss += dice.item()
        suffix = "" if layer == LAYERS - 1 else f"_{layer + 1}"
        expected = {
            "loss_ce": 2 * class_loss / weights,
            "loss_mask": 5 * mask_loss / num_masks,
            "loss_dice": 5 * dice_loss / num_masks,
        }
        for name, value in expected.items():
            found = losses[f"{name}_guided{suffix}"].item()
            assert found == pytest.approx(0.5 * value, rel=1e-4), (name, layer)
    assert sum("_guided" in name for name in losses) == 3 * LAYERS


def trained_parameters(method: CombinedMethod, losses: list[Tensor]) -> set[str]:
    torch.stack(losses).sum().backward()
    own = method.named_parameters()
    return {name for name, x in own if x.grad is not None and x.grad.any()}


def test_baseline_is_unchanged_and_guided_losses_train_the_same_parameters(
    small_recipe, method: CombinedMethod, batch: Batch
) -> None:
    losses = method(batch, method.normalizers(batch.targets))
    config = small_recipe("model.num_classes=3")
    torch.manual_seed(0)
    baseline = build_method(Mask2Former(config.model), config)
    expected = baseline(batch, baseline.normalizers(batch.targets))
    assert all(torch.equal(losses[name], value) for name, value in expected.items())
    guided = [value for name, value in losses.items() if "_guided" in name]
    trained = trained_parameters(method, guided)
    assert trained == trained_parameters(baseline, list(expected.values()))
    assert {"model.decoder.query_feat.weight", "model.backbone.conv1.weight"} <= trained


def test_a_short_training_lowers_the_guided_losses(small_recipe, tmp_path: Path) -> None:
    config = small_recipe("schedule.iterations=40", "method=gt-mask-guided")
    train(config, tmp_path / "run", console=Console(quiet=True))
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    guided = [sum(x for name, x in line.items() if "_guided" in name) for line in lines]
    assert len(guided) == 40 and sum(guided[-5:]) < 0.8 * sum(guided[:5])


def test_command_trains_the_method(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["schedule.iterations=1", "data.batch_size=2", f"data.root={data_root}"]
    method = ["method=gt-mask-guided", "gt_mask_guided.weight=2"]
    words = ["mpdiag", "train", "synthetic-tiny", *method, *settings, "--output", tmp_path / "run"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert "weight: 2.0" in (tmp_path / "run" / "config.yaml").read_text()
    assert "loss_dice_guided_8" in (tmp_path / "run" / "metrics.json").read_text()
