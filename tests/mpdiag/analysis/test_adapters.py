"""Predictions of the adapters of mpdiag's Mask2Former against a recording of the same pass."""

from typing import Any

import pytest
import torch

from mpdiag.analysis import AnalysisOptions
from mpdiag.analysis.adapter import ModelAdapter
from mpdiag.analysis.build_adapter import build_adapter
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import SegmentationDataset, padded_targets
from mpdiag.recording import record


@pytest.mark.parametrize(
    ("options", "prefix"),
    [({}, ""), ({"intervene": ("attention=gt:1-4",)}, ""), ({"part": "piloted"}, "piloted_")],
)
def test_predictions_equal_the_recording_bit_by_bit(
    loaded: LoadedCheckpoint, dataset: SegmentationDataset, options: dict[str, Any], prefix: str
) -> None:
    adapter: ModelAdapter = build_adapter(loaded, dataset, AnalysisOptions(**options))
    batch = next(adapter.batches((dataset[index] for index in range(3)), torch.device("cpu")))
    assert len(batch) == (1 if adapter.single_image_batches else 3)
    targets = padded_targets([image.sample for image in batch], batch[0].padded)
    with torch.inference_mode(), record(loaded.model, reduce="mean-heads") as recording:
        predictions = adapter.predict(batch, targets, attention=False)
    assert torch.equal(predictions.class_logits, getattr(recording, f"{prefix}class_logits"))
    assert torch.equal(predictions.mask_logits, getattr(recording, f"{prefix}mask_logits"))
    assert not predictions.attention
    if prefix:
        return
    with torch.inference_mode():
        attended = adapter.predict(batch, targets, attention=True)
    assert torch.equal(attended.mask_logits, predictions.mask_logits)
    assert len(attended.attention) == loaded.model.config.decoder_layers


def test_layers_after_the_pilot_layers_attend_within_their_own_masks(
    loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    def predict(**options: Any) -> torch.Tensor:
        adapter = build_adapter(loaded, dataset, AnalysisOptions(part="piloted", **options))
        batch = next(adapter.batches([dataset[0]], torch.device("cpu")))
        targets = padded_targets([image.sample for image in batch], batch[0].padded)
        with torch.inference_mode():
            return adapter.predict(batch, targets, attention=False).mask_logits

    layers = loaded.model.config.decoder_layers
    everywhere, two = predict(), predict(pilot_layers=2)
    assert torch.equal(predict(pilot_layers=layers), everywhere)
    assert torch.equal(two[:3], everywhere[:3])
    assert not any(torch.equal(two[layer], everywhere[layer]) for layer in range(3, layers + 1))
