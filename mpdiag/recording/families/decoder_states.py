"""Decoders that predict at their end only: the queries of every layer, as the heads want them."""

from collections.abc import Sequence

from torch import Tensor, nn

from mpdiag.recording.tap import Call, output

APPLIED_HEADS = (
    "masks and classes of all layers were predicted by the model's own heads, which the recorder "
    "showed the queries of each layer; the model itself predicts from the last"
)

SIGMOIDS = (
    "the model scores each class by a sigmoid and knows no no-object class: 0 is given as its "
    "logit, beside which a softmax of one class is its sigmoid"
)
ZERO_QUERIES = "layer 0 is predicted from queries that are all zero, so all its masks are the same"


class DecoderStates:
    """Reads the calls of decoder layers, whose first argument and result are (B, N, C) queries."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module, normed_between: bool) -> None:
        """`normed_between`: the decoder norms between its layers, and once more after the last.

        transformers' DETRs do so where their config sets `auxiliary_loss`.
        """
        self.layers = list(layers)
        self._norm = norm
        self._normed_between = normed_between

    def raw(self, call: Call) -> list[Tensor]:
        """What came out of the layer; before it, of the first, what went in (layer 0)."""
        before = [call.argument(0, "hidden_states")] if call.module is self.layers[0] else []
        return [*before, output(call)]

    def normed(self, call: Call) -> list[Tensor]:
        """The same behind the output norm."""
        states = [self._norm(state) for state in self.raw(call)]
        if self._normed_between and call.module is self.layers[-1]:
            states[-1] = self._norm(states[-1])
        return states
