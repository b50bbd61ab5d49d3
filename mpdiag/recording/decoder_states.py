"""Queries of all layers of decoders that predict from the last layer alone."""

from collections.abc import Sequence

from torch import Tensor, nn

from mpdiag.recording.hook_spec import ModuleCall, first_output

HEADS_APPLIED_NOTE = (
    "the recorder applied the model's own heads to the queries of every layer; the model itself "
    "predicts from the last layer"
)
SIGMOID_NOTE = (
    "the model scores each class by a sigmoid and has no no-object class; its logit is given as "
    "0, so that a softmax over one class and no-object is the sigmoid of the class"
)
ZERO_QUERIES_NOTE = "the queries of layer 0 are all zero, so all its masks are equal"


class DecoderStates:
    """Reader of the queries (B, N, C) before the first decoder layer and after each layer."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module, normed_between: bool) -> None:
        """Store the decoder's layers and its output norm.

        `normed_between`: the decoder applies the norm between its layers, and twice after the last
        one. transformers' DETR models do so if their config sets `auxiliary_loss`.
        """
        self.layers = list(layers)
        self._norm = norm
        self._normed_between = normed_between

    def raw(self, call: ModuleCall) -> list[Tensor]:
        """Return the output of a layer, preceded by the input of the first layer (layer 0)."""
        before = [call.argument(0, "hidden_states")] if call.module is self.layers[0] else []
        return [*before, first_output(call)]

    def normed(self, call: ModuleCall) -> list[Tensor]:
        """Return the same after the output norm."""
        states = [self._norm(state) for state in self.raw(call)]
        if self._normed_between and call.module is self.layers[-1]:
            states[-1] = self._norm(states[-1])
        return states
