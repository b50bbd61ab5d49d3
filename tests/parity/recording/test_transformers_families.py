"""Properties of single families of transformers, compared with the outputs of the library."""

from typing import Any

import pytest
import torch
from torch import nn

from mpdiag.errors import RecordingError
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
def test_maskformer_auxiliary_outputs_omit_only_the_norm(tiny: Any) -> None:
    """The library omits the output norm before the last layer; with no norm, outputs are equal."""
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


@pytest.mark.parametrize("family", ["transformers OneFormer"], indirect=True)
def test_oneformer_auxiliary_outputs(tiny: Any) -> None:
    with record(tiny.model) as recording:
        output = tiny.run(output_auxiliary_logits=True)
    layers = [*output.auxiliary_predictions, output]
    assert len(layers) == len(recording.mask_logits)
    for layer, own in enumerate(layers):
        assert torch.equal(recording.mask_logits[layer], own["masks_queries_logits"])
        assert torch.equal(recording.class_logits[layer], own["class_queries_logits"])
    assert torch.equal(recording.query[-1], output.transformer_decoder_object_queries)


@pytest.mark.parametrize("family", ["transformers EoMT", "transformers EoMT DINOv3"], indirect=True)
def test_eomt_before_each_block(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model predicts in all layers while masks guide attention; the recorder always does."""
    own: list[Any] = []
    predict = tiny.model.predict
    with monkeypatch.context() as patch:
        patch.setattr(tiny.model, "predict", lambda x: own.append(predict(x)) or own[-1])
        tiny.run()
    with record(tiny.model) as recording:
        tiny.run()
    assert len(own) == len(recording.mask_logits) == 4
    for masks, classes, (own_masks, own_classes) in zip(
        recording.mask_logits, recording.class_logits, own, strict=True
    ):
        assert torch.equal(masks, own_masks)
        assert torch.equal(classes, own_classes)
    for masks, visible in zip(recording.mask_logits, recording.attention_mask, strict=False):
        coarse = nn.functional.interpolate(masks, (4, 4), mode="bilinear").flatten(2)
        assert torch.equal(visible, coarse > 0)
    tiny.model.attn_mask_probs.zero_()
    with record(tiny.model) as recording:
        output = tiny.run()
    assert len(recording.mask_logits) == 4
    assert torch.equal(recording.mask_logits[-1], output.masks_queries_logits)
    assert recording.attention_mask.all()


@pytest.mark.parametrize("family", ["transformers VideoMT"], indirect=True)
def test_videomt_frames_are_in_the_order_of_its_output(tiny: Any) -> None:
    tiny.inputs["pixel_values_videos"] = torch.randn(2, 3, 3, 64, 64)
    states: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda *call: states.append(call[2]))
        for block in tiny.model.layers[1:]
    ]
    with record(tiny.model, only=["*"]) as recording:
        output = tiny.run()
    for handle in handles:
        handle.remove()
    assert torch.equal(recording.mask_logits[-1], output.masks_queries_logits)
    assert torch.equal(recording.class_logits[-1], output.class_queries_logits)
    frame, layer, video = 2, 1, 1  # the third frame's first block of the second video
    with torch.no_grad():
        masks, _ = tiny.model.predict(tiny.model.layernorm(states[3 * frame + layer - 1]))
    assert torch.equal(recording.mask_logits[layer, 2 * frame + video], masks[video])
    assert recording.attention_mask.shape == (3, 6, 5, 16)
    assert recording.cross_attention.shape == (3, 6, 4, 5, 16)


@pytest.mark.parametrize("family", ["transformers RF-DETR"], indirect=True)
def test_rf_detr_layer_0_is_the_proposals_of_the_encoder(tiny: Any) -> None:
    with record(tiny.model) as recording:
        output = tiny.run()
    assert torch.equal(recording.mask_logits[0], output.enc_outputs_mask_logits)
    probability = recording.class_logits[-1][..., [0, -1]].softmax(-1)[..., 0]
    torch.testing.assert_close(probability, output.logits[..., 0].sigmoid())


@pytest.mark.parametrize("family", ["transformers DETR"], indirect=True)
def test_detr_auxiliary_outputs(tiny: Any) -> None:
    """With auxiliary outputs (classes and boxes), the decoder applies its norm in each layer."""
    tiny.model.detr.model.decoder.config.auxiliary_loss = True
    decoder = tiny.model.detr.model.decoder
    intermediate: list[torch.Tensor] = []
    handle = decoder.register_forward_hook(
        lambda *call: intermediate.append(call[2].intermediate_hidden_states)
    )
    with record(tiny.model) as recording:
        output = tiny.run()
    handle.remove()
    with torch.no_grad():
        own = tiny.model.detr.class_labels_classifier(intermediate[0])
    torch.testing.assert_close(recording.class_logits[1:-1], own[:-1])
    assert torch.equal(recording.class_logits[-1], output.logits)
    assert torch.equal(recording.mask_logits[-1], output.pred_masks)


MATCHED = ["transformers Mask2Former", "transformers OneFormer", "transformers EoMT"]


@pytest.mark.parametrize("family", MATCHED, indirect=True)
def test_assignments_inside_the_loss(tiny: Any) -> None:
    """The assignment of a layer is the matcher's result for the masks of this layer."""
    masks = [torch.zeros(2, 64, 64), torch.zeros(1, 64, 64)]
    masks[0][0, :30, :30] = masks[0][1, 40:, 20:] = masks[1][0, 10:50, 10:50] = 1
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    tiny.inputs["pixel_values"] = tiny.inputs["pixel_values"][..., :64]
    calls: list[Any] = []
    tiny.model.criterion.matcher.register_forward_hook(
        lambda module, args, pairs: calls.append((args[0], pairs))
    )
    with record(tiny.model) as recording:
        tiny.run()
        assert "assignment" not in recording
        tiny.run(mask_labels=masks, class_labels=labels)
    assert recording.assignment.shape == (4, 2, 5) and len(calls) == 4
    for own, found in zip(recording.mask_logits, recording.assignment, strict=True):
        (pairs,) = [pairs for given, pairs in calls if torch.equal(given, own)]
        for image, (queries, gt) in enumerate(pairs):
            expected = torch.full((5,), -1)
            expected[queries] = gt
            assert torch.equal(found[image], expected)
            assert (expected >= 0).sum() == len(labels[image])


@pytest.mark.parametrize("family", ["transformers Mask2Former"], indirect=True)
def test_layer_drop_is_an_error(tiny: Any) -> None:
    tiny.model.train()
    tiny.model.model.transformer_module.decoder.layerdrop = 1.0
    with (
        record(tiny.model) as recording,
        pytest.raises(RecordingError, match=r"produced 1 layers, .* has 4; .* layer drop"),
    ):
        tiny.run()
    assert "mask_logits" not in recording
