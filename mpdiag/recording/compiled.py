"""Compiled modules, whose hooks may not be called: recognised, and refused."""

from torch import nn

from mpdiag.errors import RecordingError


def refuse_compiled(model: nn.Module) -> None:
    """Raise RecordingError if `model` or a module in it went through torch.compile."""
    for path, module in model.named_modules():
        forward = module.__dict__.get("forward")
        if (
            type(module).__name__ == "OptimizedModule"
            or getattr(module, "_compiled_call_impl", None) is not None
            or hasattr(forward, "_torchdynamo_orig_callable")
        ):
            where = path or "the model itself"
            raise RecordingError(
                f"{where} went through torch.compile, and compiled code may pass by the "
                "recorder's hooks: record the model before it is compiled"
            )
