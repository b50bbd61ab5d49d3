"""Hooks that join MP queries to the decoder of a transformers model and split its predictions.

They rely on what transformers' Mask2Former and OneFormer have in common: a masked-attention decoder
that predicts before its first layer and after each, with queries as (N, B, C). The MP queries come
before the model's own, as in mpdiag's decoder.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mpdiag.errors import TrainingError
from mpdiag.models import PilotInputs
from mpdiag.recording.family import is_instance_by_name


class PilotedDecoder(ABC):
    """The decoder of a model, with MP queries in the forward passes between `begin` and `end`.

    In other passes the hooks change nothing. The outputs of the decoder are always those of the
    matching part.
    """

    model_class: ClassVar[str]
    query_position: ClassVar[str]  # keyword argument of the decoder

    def __init__(self, model: Any) -> None:
        self.model = model
        transformer = model.model.transformer_module
        self.decoder = transformer.decoder
        self.num_layers = len(self.decoder.layers)
        self._num_queries: int = transformer.queries_embedder.num_embeddings
        self._num_heads: int = model.config.num_attention_heads
        self._pilot: PilotInputs | None = None
        self._content: Tensor | None = None
        self._class_logits: list[Tensor] = []
        self._mask_logits: list[Tensor] = []
        # Kept after the pass for gradient checkpointing, which calls self-attention again.
        self._self_hidden: Tensor | None = None
        self._position_address: int | None = None
        self._handles = [
            self.decoder.register_forward_pre_hook(self._join, with_kwargs=True),
            self.decoder.register_forward_hook(self._split_output),
            *(
                attention.register_forward_pre_hook(self._mask_self_attention, with_kwargs=True)
                for attention in self._self_attentions()
            ),
        ]

    def begin(self, pilot: PilotInputs | None, content: Tensor | None) -> None:
        """Add MP queries to the next pass; none if `pilot` is None.

        Args:
            pilot: inputs of the MP part.
            content: (B, P, C) queries.
        """
        self._pilot, self._content = pilot, content
        self._class_logits, self._mask_logits = [], []
        self._self_hidden = self._position_address = None

    def end(self) -> tuple[Tensor, Tensor] | None:
        """Return (L + 1, B, P, K + 1) class and (L + 1, B, P, h, w) mask logits of the MP part."""
        if self._pilot is None:
            return None
        predictions = torch.stack(self._class_logits), torch.stack(self._mask_logits)
        self._pilot = self._content = None
        self._class_logits, self._mask_logits = [], []
        return predictions

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()

    @abstractmethod
    def _self_attentions(self) -> list[nn.Module]:
        """Return the self-attention modules, with the arguments of transformers' DETR."""

    @abstractmethod
    def _split(self, output: Any, piloted: int) -> None:
        """Remove the MP part, which comes first, from an output of the decoder."""

    @property
    def _piloted(self) -> int:
        """Number P of MP queries in this pass."""
        return 0 if self._content is None else self._content.shape[1]

    def _join(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Extend the position queries of the decoder by zeros, as MP queries have no position."""
        if self._pilot is None:
            return None
        position = kwargs[self.query_position]
        zeros = position.new_zeros(self._piloted, *position.shape[1:])
        joined = torch.cat([zeros, position])
        self._position_address = joined.data_ptr()
        self._self_hidden = ~self._pilot.self_visible(self._num_queries)
        return args, {**kwargs, self.query_position: joined}

    def _join_content(self, query: Tensor) -> Tensor:
        """Return (P + N, B, C) queries for (N, B, C) queries of the model."""
        assert self._content is not None
        return torch.cat([self._content.to(query.dtype).transpose(0, 1), query])

    def _split_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._pilot is not None:
            self._split(output, self._piloted)

    def _mask_rows(self, hidden: Tensor, size: tuple[int, int]) -> Tensor:
        """Replace the rows of MP queries in the attention mask of the next decoder layer.

        Args:
            hidden: (B * heads, P + N, h * w) bool, True where a query may not attend.
            size: (h, w).
        """
        assert self._pilot is not None
        visible = self._pilot.visible(len(self._mask_logits) - 1, size)
        if visible is None:
            return hidden
        gt_masks = (~visible).repeat_interleave(self._num_heads, dim=0)
        return torch.cat([gt_masks, hidden[:, self._piloted :]], dim=1)

    def _mask_self_attention(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Hide MP queries from the matching part, and groups of MP queries from each other."""
        query, position = kwargs["hidden_states"], kwargs["position_embeddings"]
        if len(query) == self._num_queries:
            return None
        # Gradient checkpointing passes another tensor with the same values at the same address.
        if self._self_hidden is None or position.data_ptr() != self._position_address:
            raise TrainingError(
                "MaskPiloting: gradient checkpointing recomputes a forward pass that is not the "
                "last one; call backward after each forward pass"
            )
        mask = query.new_zeros(self._self_hidden.shape)
        mask = mask.masked_fill(self._self_hidden, -torch.inf)
        return args, {**kwargs, "attention_mask": mask.repeat_interleave(self._num_heads, dim=0)}


class Mask2FormerDecoder(PilotedDecoder):
    """Decoder of Mask2FormerForUniversalSegmentation (transformers, modeling_mask2former.py)."""

    model_class = "Mask2FormerForUniversalSegmentation"
    query_position = "query_position_embeddings"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        # Before the hooks of a recorder, so that it reads the matching part.
        handle = self.decoder.mask_predictor.register_forward_hook(
            self._split_prediction, prepend=True
        )
        self._handles.append(handle)

    def _self_attentions(self) -> list[nn.Module]:
        return [layer.self_attn for layer in self.decoder.layers]

    def _join(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self._pilot is None:
            return None
        content = self._join_content(kwargs["inputs_embeds"])
        return super()._join(module, args, {**kwargs, "inputs_embeds": content})

    def _split_prediction(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._pilot is None:
            return None
        masks, hidden = output
        self._mask_logits.append(masks[:, : self._piloted])
        return masks[:, self._piloted :], self._mask_rows(hidden, args[2])

    def _split(self, output: Any, piloted: int) -> None:
        states = output.intermediate_hidden_states
        # Without the module's hooks: a recorder counts one call per layer.
        classify = self.model.class_predictor.forward
        self._class_logits = [classify(state[:piloted].transpose(0, 1)) for state in states]
        output.intermediate_hidden_states = tuple(state[piloted:] for state in states)
        output.last_hidden_state = output.last_hidden_state[:, piloted:]
        if output.hidden_states is not None:
            output.hidden_states = tuple(state[piloted:] for state in output.hidden_states)
        if output.attentions is not None:
            output.attentions = tuple(x[..., piloted:, piloted:] for x in output.attentions)


class OneFormerDecoder(PilotedDecoder):
    """Decoder of OneFormerForUniversalSegmentation (transformers, modeling_oneformer.py).

    It computes its queries itself and predicts in a method, which is replaced.
    """

    model_class = "OneFormerForUniversalSegmentation"
    query_position = "query_embeddings"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        first = self.decoder.layers[0]
        self._handles.append(first.register_forward_pre_hook(self._join_first, with_kwargs=True))
        self.decoder.forward_prediction_heads = self._predict

    def remove(self) -> None:
        super().remove()
        del self.decoder.forward_prediction_heads

    def _self_attentions(self) -> list[nn.Module]:
        return [layer.self_attn.self_attn for layer in self.decoder.layers]

    def _join_first(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        if self._pilot is None:
            return None
        return args, {**kwargs, "output": self._join_content(kwargs["output"])}

    def _predict(
        self, output: Tensor, mask_features: Tensor, attention_mask_target_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        predict = type(self.decoder).forward_prediction_heads
        if self._pilot is None:
            found: tuple[Tensor, Tensor, Tensor] = predict(
                self.decoder, output, mask_features, attention_mask_target_size
            )
            return found
        if not self._mask_logits:
            output = self._join_content(output)
        classes, masks, hidden = predict(
            self.decoder, output, mask_features, attention_mask_target_size
        )
        self._class_logits.append(classes[:, : self._piloted])
        self._mask_logits.append(masks[:, : self._piloted])
        hidden = self._mask_rows(hidden, attention_mask_target_size)
        return classes[:, self._piloted :], masks[:, self._piloted :], hidden

    def _split(self, output: Any, piloted: int) -> None:
        output.object_queries = output.object_queries[:, piloted:]
        output.attentions = tuple(
            tuple(
                x[..., piloted:, piloted:] if x.ndim == 4 else x[:, piloted:] for x in layer
            )  # self-attention (B, heads, N, N) and cross-attention (B, N, S)
            for layer in output.attentions
        )


def piloted_decoder(model: nn.Module) -> PilotedDecoder | None:
    """Return the decoder of a supported model with its hooks; None for other models."""
    for found in (Mask2FormerDecoder, OneFormerDecoder):
        if is_instance_by_name(model, "transformers", found.model_class):
            return found(model)
    return None
