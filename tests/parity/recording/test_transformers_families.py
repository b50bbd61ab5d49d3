"""What single families of transformers give beyond the common, held against the library's own."""

from typing import Any

import pytest
import torch
from torch import nn

from mpdiag.recording import record


@pytest.mark.parametrize("family", ["transformers Mask2Former"], indirect=True)
def test_mask2former_auxiliary_outputs(tiny: Any) -> None:
    with record(tiny.model) as recording:
        output = tiny.run(output_auxiliary_logits=True, output_hidden_states=True)
    layers = [*output.auxiliary_logits, output]
    for layer, own in enumerate(layers):
        assert torch.equal(recording.mask_logits[layer], own["masks_queries_logits"])
        assert torch.equal(recording.class_logits[layer], own["class_queries_logits"])
    states = torch.stack(output.transformer_decoder_hidden_states).transpose(1, 2)
    assert torch.equal(recording.query, states)
    for masks, visible in zip(recording.mask_logits, recording.attention_mask, strict=False):
        grid = {24: (4, 6), 96: (8, 12), 6: (2, 3)}[visible.shape[-1]]
        coarse = nn.functional.interpolate(masks, grid, mode="bilinear").sigmoid().flatten(2) >= 0.5
        assert torch.equal(visible, coarse | ~coarse.any(-1, keepdim=True))


@pytest.mark.parametrize("family", ["transformers MaskFormer"], indirect=True)
def test_maskformer_auxiliary_outputs_lack_only_the_norm(tiny: Any) -> None:
    """The library leaves the output norm out before the last layer; without it, all is equal."""
    tiny.model.config.use_auxiliary_loss = True
    tiny.model.model.transformer_module.decoder.layernorm = nn.Identity()
    with record(tiny.model) as recording:
        output = tiny.run(output_auxiliary_logits=True, output_hidden_states=True)
    layers = [*output.auxiliary_logits, output]
    assert len(layers) == len(recording.mask_logits)
    for layer, own in enumerate(layers):
        torch.testing.assert_close(recording.mask_logits[layer], own["masks_queries_logits"])
        torch.testing.assert_close(recording.class_logits[layer], own["class_queries_logits"])
    assert torch.equal(recording.query, torch.stack(output.transformer_decoder_hidden_states))
