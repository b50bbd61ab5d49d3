"""Detection of compiled modules, which may not call forward hooks."""

from torch import nn

from mpdiag.errors import RecordingError


def compiled_module(model: nn.Module) -> str | None:
    """Return the name of a module in `model` that torch.compile has compiled; None if none is."""
    for path, module in model.named_modules():
        forward = module.__dict__.get("forward")
        if (
            type(module).__name__ == "OptimizedModule"
            or getattr(module, "_compiled_call_impl", None) is not None
            or hasattr(forward, "_torchdynamo_orig_callable")
        ):
            return path or "the model"
    return None


def require_uncompiled(model: nn.Module) -> None:
    """Raise RecordingError if `model` or a module in it was compiled by torch.compile."""
    compiled = compiled_module(model)
    if compiled is not None:
        raise RecordingError(
            f"{compiled}: compiled by torch.compile, whose code may not call forward hooks; record "
            "or train the model without torch.compile"
        )
