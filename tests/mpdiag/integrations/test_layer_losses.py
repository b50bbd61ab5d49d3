"""Losses of a criterion by layer: read from calls that are written by hand, and in a monitor."""

from typing import Any

import pytest
import torch
from torch import nn

import mpdiag
from mpdiag.integrations.layer_losses import LayerLosses, find_criterion
from mpdiag.recording import Family, HookSpec, HookSpecs, first_output, known_families, register

from .test_monitor import Segmenter, left_and_right


class Criterion(nn.Module):
    """Returns what it is given."""

    def forward(self, output: Any) -> Any:
        return output


def test_losses_are_assigned_to_layers_as_the_criteria_number_them() -> None:
    model = nn.ModuleDict({"criterion": Criterion()})
    criterion = find_criterion(model)
    assert criterion is model["criterion"]

    def read(layers: int, *passes: list[dict[str, float]]) -> dict[str, float]:
        losses = LayerLosses(criterion, layers)
        for calls in passes:
            losses.begin_pass()
            for call in calls:
                criterion({name: torch.tensor(float(value)) for name, value in call.items()})
            losses.end_pass()
            criterion({"loss_mask": torch.tensor(100.0)})  # for other passes
        losses.remove()
        return losses.values()

    # Mask2Former and DETR with M^0: the last layer has no number. Two passes are averaged.
    first, second = ({"loss_mask": x, "loss_mask_0": x + 1, "loss_mask_1": x + 2} for x in (1, 5))
    found = read(3, [first], [second])
    assert found == {"loss_mask/2": 3, "loss_mask/0": 4, "loss_mask/1": 5}
    # RF-DETR: numbers start after the first layer; the proposals are layer 0.
    found = read(3, [{"loss_ce": 1, "loss_ce_0": 2, "loss_ce_enc": 3, "class_error": 9}])
    assert found == {"loss_ce/2": 1, "loss_ce/1": 2, "loss_ce/0": 3}
    # EoMT: one call per layer.
    found = read(3, [{"loss_dice": 1}, {"loss_dice": 2}, {"loss_dice": 3}], [], [{"loss_dice": 5}])
    assert found == {"loss_dice/0": 1, "loss_dice/1": 2, "loss_dice/2": 4}
    # A model without auxiliary losses.
    assert read(3, [{"loss_dice": 1}], [{"loss_dice": 2}]) == {"loss_dice/2": 1.5}


class SegmenterFamily(Family):
    """A monitor reads a criterion only of a model with a known number of layers."""

    name = "segmenter"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, Segmenter)

    def hooks(self, model: Any) -> HookSpecs:
        return {
            name: HookSpec([getattr(model, name)], 2, first_output)
            for name in ("class_logits", "mask_logits")
        }


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    monkeypatch.setattr("mpdiag.recording.family._FAMILIES", known_families())
    register(SegmenterFamily())
    return Segmenter()


IMAGES = torch.ones(1, 3, 8, 16)


def test_losses_of_passes_that_are_not_measured_do_not_count(model: Segmenter) -> None:
    """A criterion beside the model, which stays in training mode in an evaluation."""
    criterion = Criterion()
    with mpdiag.LayerMonitor(model, every=1, criterion=criterion) as monitor:
        for _ in range(2):
            model.train()(IMAGES)
            criterion({"loss_mask": torch.tensor(1.0)})
            values = monitor.step()
            assert {k: v for k, v in values.items() if k[:4] == "loss"} == {"loss_mask/1": 1}
            monitor.start_evaluation(1)
            for loss in (2.0, 3.0, 3.0):
                model.eval()(IMAGES)
                criterion({"loss_mask": torch.tensor(loss)})
            assert monitor.finish_evaluation()["loss_mask/1"] == 2


def test_losses_are_computed_if_those_of_the_criterion_have_no_names(
    model: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    criterion = Criterion()
    names = []
    with mpdiag.LayerMonitor(model, every=1, criterion=criterion) as monitor:
        for _ in range(3):
            model(IMAGES)
            criterion(torch.tensor(1.0))
            values = monitor.step([left_and_right()])
            names.append([name for name in values if name.startswith("loss_mask")])
    assert names == [[], ["loss_mask/0", "loss_mask/1"], ["loss_mask/0", "loss_mask/1"]]
    assert [one.getMessage()[:31] for one in caplog.records] == ["Criterion returns no dictionary"]
