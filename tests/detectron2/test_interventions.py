"""Interventions on the official models, compared with mpdiag's model with the same weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mpdiag.analysis.interventions import Intervention, intervene
from mpdiag.checkpoints import save_checkpoint
from mpdiag.config import ModelConfig
from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from mpdiag.recording import Recording, find_family, record

TEXTS = ("attention=gt:1-3", "attention=none:2,4:0-3", "self-attention=none:all")


@torch.no_grad()
def record_with(
    model: nn.Module, inputs: Any, targets: list[Target], texts: Sequence[str]
) -> Recording:
    family, module = find_family(model)
    points = family.intervention_points(module)
    assert points is not None
    changes = [Intervention.parse(text, points.num_layers, points.num_queries) for text in texts]
    last = torch.tensor([[0, -1, 1, -1, -1, -1], [-1, 2, 0, -1, 1, -1]])
    names = ["attention_mask", "mask_logits"]
    with (
        intervene(model, points, changes, (64, 64), targets, last),
        record(model, only=names) as recording,
    ):
        model(inputs)
    return recording


@pytest.mark.parametrize("texts", [(), *((text,) for text in TEXTS), TEXTS])
def test_official_model_equals_mpdiag(
    build_official: Callable[[], nn.Module],
    our_config: ModelConfig,
    inputs: list[dict[str, Any]],
    targets: list[Target],
    texts: tuple[str, ...],
    tmp_path: Path,
) -> None:
    torch.manual_seed(3)
    ours, official = Mask2Former(our_config).eval(), build_official().eval()
    save_checkpoint(tmp_path / "model_final.pth", ours)
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    official.load_state_dict(saved)
    found = record_with(official, inputs, targets, texts)
    expected = record_with(ours, [x["image"] for x in inputs], targets, texts)
    for one, other in zip(
        found.layers("attention_mask"), expected.layers("attention_mask"), strict=True
    ):
        assert torch.equal(one, other)
    deviation = 1e-4 * expected.mask_logits.std().item()
    torch.testing.assert_close(found.mask_logits, expected.mask_logits, rtol=1e-4, atol=deviation)
    if texts:
        plain = record_with(official, inputs, targets, ())
        assert not torch.equal(plain.mask_logits, found.mask_logits)
