"""The arguments `only` and `reduce` of the recorder."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.models import Mask2Former
from mpdiag.recording import record


def recorded(model: Mask2Former, images: list[Tensor], **settings: object) -> object:
    with torch.no_grad(), record(model, **settings) as recording:  # type: ignore[arg-type]
        model(images)
    return recording


def test_binary_and_host(small_model: Mask2Former, images: list[Tensor]) -> None:
    plain = recorded(small_model, images)
    small = recorded(small_model, images, reduce=["binary", "host"])
    assert small.mask_logits.dtype == torch.bool
    assert torch.equal(small.mask_logits, plain.mask_logits > 0)
    assert torch.equal(small.class_logits, plain.class_logits)
    assert small.to_dataframe()["area"].equals(plain.to_dataframe()["area"])


def test_pooled(small_model: Mask2Former, images: list[Tensor]) -> None:
    plain = recorded(small_model, images)
    pooled = recorded(small_model, images, reduce="pool:5").mask_logits
    assert pooled.shape[-2:] == (4, 4)
    first = plain.mask_logits[..., :5, 5:10].mean((-1, -2))
    torch.testing.assert_close(pooled[..., 0, 1], first)
    torch.testing.assert_close(pooled[..., 3, 3], plain.mask_logits[..., 15, 15])


def test_mean_heads_and_a_function(small_model: Mask2Former, images: list[Tensor]) -> None:
    only = ["cross_attention"]
    plain = recorded(small_model, images, only=only).cross_attention
    mean = recorded(small_model, images, only=only, reduce="mean-heads").cross_attention
    for one, other in zip(plain, mean, strict=True):
        assert torch.equal(one.mean(1, keepdim=True), other)
    third = recorded(small_model, images, only=only, reduce=lambda name, x: x[:, :, 3:4])
    assert torch.equal(third.cross_attention[2], plain[2][:, :, 3:4])


def test_an_unknown_reduction_is_rejected(small_model: Mask2Former) -> None:
    for wrong in ("pool", "pool:0", "half"):
        with (
            pytest.raises(RecordingError, match=f"reduce='{wrong}': unknown; use binary, host"),
            record(small_model, reduce=wrong),
        ):
            pass


def test_other_tensors_are_not_kept(small_model: Mask2Former, images: list[Tensor]) -> None:
    """The masks of a pass are freed with the model's output; the classes are kept."""
    seen: list[weakref.ref[Tensor]] = []
    point = small_model.decoder.hook_points.mask_logits
    handle = point.register_forward_hook(lambda *call: seen.append(weakref.ref(call[2])))
    with torch.no_grad(), record(small_model, only=["class_*"]) as recording:
        assert len(point._forward_hooks) == 1
        small_model(images)
        gc.collect()
        assert len(seen) == 5 and all(reference() is None for reference in seen)
    handle.remove()
    assert len(recording.class_logits) == 5
