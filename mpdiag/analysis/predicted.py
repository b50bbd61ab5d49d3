"""One pass of a model, by the recorder: what each layer predicts, and attends to if asked."""

from collections.abc import Callable

from torch import Tensor, nn

from mpdiag.analysis.segmenter import LayerAttention, Predicted
from mpdiag.errors import ConfigError, RecordingError
from mpdiag.recording import Recording, record

LOGITS = ("class_logits", "mask_logits")
ATTENTION = "cross_attention"


def require_attention(model: nn.Module) -> None:
    """ConfigError where the recorder can't tell what the model's queries attend to."""
    try:
        with record(model, only=[ATTENTION]):
            pass
    except RecordingError as error:
        raise ConfigError(f"--save-attention: {error}; leave it out") from error


def recorded(
    model: nn.Module,
    run: Callable[[], object],
    *,
    attention: bool,
    classes: Callable[[Tensor], Tensor] | None = None,
) -> Predicted:
    """What a model predicts in the pass that `run` makes.

    Args:
        model: of a family that the recorder knows.
        run: calls it.
        attention: whether to tell what queries attend to.
        classes: brings class logits to the data set's order.
    """
    # A pattern, since not every family that attends has masks of where.
    wanted = [*LOGITS, "*attention*"] if attention else LOGITS
    with record(model, only=wanted, reduce="mean-heads") as recording:
        run()
    logits = recording.class_logits
    return Predicted(
        classes(logits) if classes else logits, recording.mask_logits, _attention(recording)
    )


def _attention(recording: Recording) -> list[LayerAttention]:
    if ATTENTION not in recording:
        return []
    weights = [layer[:, 0] for layer in recording.layers(ATTENTION)]
    masks: list[Tensor | None] = [None] * len(weights)
    if "attention_mask" in recording:
        masks = [*recording.layers("attention_mask")]
    return [
        LayerAttention(recording.grid_of(layer.shape[-1]), layer, mask)
        for layer, mask in zip(weights, masks, strict=True)
    ]
