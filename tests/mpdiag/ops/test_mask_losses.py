"""Mask losses and gradients of the C++ and PyTorch implementations against float64."""

import pytest
import torch

from mpdiag.ops import mask_kernel, mask_losses


@pytest.mark.parametrize("implementation", ["compiled", "plain"])
@pytest.mark.parametrize("count", [1, 31, 2000])
def test_values_and_gradients(
    implementation: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation == "plain":
        monkeypatch.setattr(mask_kernel, "mask_kernel", lambda: None)
    else:
        assert mask_kernel.mask_kernel() is not None
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(5, count, generator=generator)
    logits[0, 0], logits[1, 0] = 150.0, -150.0
    truth = torch.rand(5, count, generator=generator)
    truth[2:] = truth[2:].round()
    weights = torch.randn(2, 5, generator=generator)
    x = logits.requires_grad_()
    found = torch.stack(mask_losses(x, truth))
    (gradient,) = torch.autograd.grad((found * weights).sum(), x)
    # The formulas in float64.
    y = logits.detach().double().requires_grad_()
    p, t = y.sigmoid(), truth.double()
    entropy = (y.clamp(min=0) - y * t + (-y.abs()).exp().log1p()).mean(1)
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    right = torch.stack([entropy, dice])
    (slope,) = torch.autograd.grad((right * weights).sum(), y)
    torch.testing.assert_close(found.double(), right, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=2e-5, atol=1e-7)


def test_single_loss_of_a_strided_view() -> None:
    whole = torch.randn(6, 80, generator=torch.Generator().manual_seed(0), requires_grad=True)
    part = whole[::2, ::2]
    truth = (part > 0).float()
    (gradient,) = torch.autograd.grad(mask_losses(part, truth)[1].sum(), whole)
    assert gradient[::2, ::2].all() and not gradient[1::2].any() and not gradient[:, 1::2].any()
    with pytest.raises(ValueError, match="differ"):
        mask_losses(whole, truth)
    (slope,) = torch.autograd.grad(mask_losses(part, truth)[0].sum(), whole, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(slope.sum(), whole)
