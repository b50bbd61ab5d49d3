"""Detection of compiled modules, which may not call the recorder's hooks."""

from torch import nn

from mpdiag.errors import RecordingError


def require_uncompiled(model: nn.Module) -> None:
    """Raise RecordingError if `model` or a module in it was compiled by torch.compile."""
    for path, module in model.named_modules():
        forward = module.__dict__.get("forward")
        if (
            type(module).__name__ == "OptimizedModule"
            or getattr(module, "_compiled_call_impl", None) is not None
            or hasattr(forward, "_torchdynamo_orig_callable")
        ):
            raise RecordingError(
                f"{path or 'the model'}: compiled by torch.compile, whose code may not call "
                "forward hooks; record the model before you compile it"
            )
