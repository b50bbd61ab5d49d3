"""Copies between CPU and GPU that make the CPU wait as little as possible."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device. A copy from the CPU to a GPU does not wait for the GPU."""
    if tensor.is_cpu and torch.device(device).type == "cuda":
        # Pinning writes to a copy with the same strides, which fails for expanded tensors.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_cpu(*tensors: Tensor) -> list[Tensor]:
    """Copy tensors of one device to the CPU in one transfer.

    They travel as float64, which holds float32, bool and integers below 2^53 exactly.
    """
    if all(tensor.is_cpu for tensor in tensors):
        return list(tensors)
    joined = torch.cat([tensor.double().flatten() for tensor in tensors]).cpu()
    parts = joined.split([tensor.numel() for tensor in tensors])
    return [
        part.view(tensor.shape).to(tensor.dtype)
        for part, tensor in zip(parts, tensors, strict=True)
    ]
