"""Interventions on models of transformers, against mpdiag's own model and changed weights."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpdiag.analysis.interventions import Intervention, intervene
from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from mpdiag.recording import Recording, family_of, record

from ..transformers_models import oneformer

transformers = pytest.importorskip("transformers")

SIZE, L, N = (64, 96), 4, 6
TEXTS = ("attention=gt:1-3", "attention=previous:2,4:0-3", "attention=none:all",
         "self-attention=none:2-3", "attention=gt:2")  # fmt: skip


def targets() -> list[Target]:
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 5:20, 40:70] = True
    masks[1, 40:, :30] = True
    one = Target(labels=torch.tensor([0, 1]), masks=masks)
    return [one, Target(labels=one["labels"][:1], masks=masks[1:])]


def matches() -> Tensor:
    last = torch.full((2, N), -1)
    last[0, 3], last[0, 1], last[1, 0] = 0, 1, 0
    return last


@torch.no_grad()
def record_with(model: nn.Module, inputs: Any, texts: Sequence[str]) -> Recording:
    points = family_of(model).intervention_points(model)
    assert points is not None
    changes = [Intervention.parse(text, points.num_layers, N) for text in texts]
    names = ["attention_mask", "mask_logits"]
    with (
        intervene(model, points, changes, SIZE, targets(), matches()),
        record(model, only=names) as recording,
    ):
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return recording


def assert_same(found: Recording, expected: Recording) -> None:
    for one, other in zip(
        found.layers("attention_mask"), expected.layers("attention_mask"), strict=True
    ):
        assert torch.equal(one, other)
    deviation = 1e-4 * expected.mask_logits.std().item()
    torch.testing.assert_close(found.mask_logits, expected.mask_logits, rtol=1e-4, atol=deviation)


def test_transformers_mask2former_equals_mpdiag(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = BackboneConfig(name="resnet18", channels=(8, 16, 32, 64), norm="batch")
    config = ModelConfig(
        num_classes=5,
        backbone=backbone,
        hidden_dim=32,
        mask_dim=16,
        num_heads=4,
        encoder_layers=1,
        encoder_feedforward_dim=32,
        decoder_layers=L,
        feedforward_dim=32,
        num_queries=N,
    )
    ours = Mask2Former(config).eval()
    with torch.no_grad():
        ours.decoder.query_feat.weight.mul_(3)
    write_transformers(tmp_path, ours)
    theirs = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path).eval()
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 255, (3, *SIZE), generator=generator).byte() for _ in range(2)]
    inputs = {"pixel_values": ours.preprocess(images)}
    baseline = record_with(ours, images, [])
    assert_same(record_with(theirs, inputs, []), baseline)
    for text in TEXTS:
        changed = record_with(ours, images, [text])
        assert not torch.equal(changed.mask_logits, baseline.mask_logits)
        assert_same(record_with(theirs, inputs, [text]), changed)
    assert_same(record_with(theirs, inputs, TEXTS), record_with(ours, images, TEXTS))
    assert_same(record_with(theirs, inputs, []), baseline)  # all hooks are removed


def test_oneformer() -> None:
    torch.manual_seed(0)
    model = oneformer(num_queries=N, decoder_layers=L + 1).eval()
    inputs = {
        "pixel_values": torch.randn(2, 3, *SIZE),
        "task_inputs": torch.tensor([[1, 2, 3, 0, 0, 0, 0]] * 2),
    }
    baseline = record_with(model, inputs, [])
    found = record_with(model, inputs, ["attention=gt:2", "attention=none:1"])
    first, second, *_ = found.layers("attention_mask")
    assert first.all()
    truth = targets()[0]["masks"][0]
    cells = truth.view(4, SIZE[0] // 4, 6, SIZE[1] // 6).any(3).any(1)
    assert torch.equal(second[0, 3].view(4, 6), cells)
    only_second = record_with(model, inputs, ["attention=gt:2"]).layers("attention_mask")
    others = [query for query in range(N) if query not in (1, 3)]
    assert torch.equal(only_second[1][0, others], baseline.layers("attention_mask")[1][0, others])

    silent = copy.deepcopy(model)
    for layer in silent.model.transformer_module.decoder.layers[1:3]:
        for parameter in layer.self_attn.self_attn.out_proj.parameters():
            nn.init.zeros_(parameter)
    off = record_with(model, inputs, ["self-attention=none:2-3"])
    assert not torch.equal(off.mask_logits, baseline.mask_logits)
    assert_same(off, record_with(silent, inputs, []))
