"""What a forward pass did, by canonical names."""

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.recording.names import CANONICAL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Recording:
    """What one forward pass did; a later pass in the same `with` replaces it.

    Attributes are the canonical names (`mpdiag.recording.names()`): `mask_logits` is
    (L + 1, B, N, h, w), `class_logits` (L + 1, B, N, K + 1). Names whose size differs from layer
    to layer (`attention_mask`) come as a list with one tensor for each layer. Tensors are
    detached; one that no pass has produced raises RecordingError.

    `family` is the name of the family that read the model; `notes` are sentences about it that
    whoever reads the numbers must know.
    """

    def __init__(
        self, family: str, notes: Sequence[str], wanted: Sequence[str], has: Container[str] = ()
    ) -> None:
        self.family = family
        self.notes = tuple(notes)
        self._has = has  # all that could have been recorded
        self._layers: dict[str, list[Tensor]] = {name: [] for name in wanted}
        self._mask_size: tuple[int, int] | None = None  # before any reduction

    def layers(self, name: str) -> list[Tensor]:
        """The tensors called `name`, one for each layer in which the model made one."""
        if name not in self._layers:
            if name in self._has:
                asked = f'mpdiag.record(model, only=["*_logits", "{name}"])'
                raise RecordingError(f"{name} was not asked for; {asked} records it")
            raise RecordingError(f"{name} was not recorded: {self.family} has none")
        if not self._layers[name]:
            raise RecordingError(
                f"{name} was not recorded: no forward pass of the model has made it and ended "
                "(code that was compiled earlier passes by the recorder)"
            )
        return self._layers[name]

    def __getattr__(self, name: str) -> Any:
        if name not in CANONICAL:
            raise AttributeError(f"a recording has no {name!r}; it has {', '.join(CANONICAL)}")
        layers = self.layers(name)
        if any(layer.shape != layers[0].shape for layer in layers):
            return layers
        return _joined(layers)

    def attention(
        self, layer: int, query: int, index: int = 0, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Where one query looks in one decoder layer: (heads, rows, columns), each head's sum 1.

        Args:
            layer: 1..L.
            query: of image `index` of the batch.
            grid: rows and columns of the map that the layer attends to; None finds them by the
                size of the mask logits, where these are recorded, too.
        """
        layers = self.layers("cross_attention")
        if not 1 <= layer <= len(layers):
            raise RecordingError(f"decoder layer {layer} is not there: they go 1..{len(layers)}")
        weights = layers[layer - 1][index, :, query]
        rows, columns = grid or self.grid_of(weights.shape[-1])
        return weights.view(-1, rows, columns)

    def frame(self, valid: Sequence[tuple[int, int]] | None = None) -> "pd.DataFrame":
        """One row for each image, layer and query.

        Columns: image (of the batch), layer, query, area (cells of its mask), iou_prev (with the
        layer before; NaN in layer 0 and where both are empty), label and score where the classes
        were recorded, matched_gt where the model's own assignment was.

        Args:
            valid: rows and columns of the masks' grid that each image covers without its padding;
                the whole grid if None.
        """
        from mpdiag.recording.frame import rows_of

        return rows_of(self, valid)

    def show(
        self,
        query: int,
        image: Any = None,
        *,
        index: int = 0,
        valid: tuple[int, int] | None = None,
        layers: Sequence[int] | None = None,
    ) -> "Figure":
        """The paper's Figure 1 for one query: its mask in each layer in red over the image.

        Above each mask stand its IoU with that of the layer before, and its class and score where
        the classes were recorded.

        Args:
            query: which one.
            image: the picture, (H, W, 3) or (3, H, W), also one from PIL; grey if None.
            index: which image of the batch it is.
            valid: rows and columns of the masks' grid that the picture covers; all if None.
            layers: which, 0..L; all if None.
        """
        from mpdiag.recording.figure import draw

        return draw(self, query, image, index, valid, layers)

    def __contains__(self, name: str) -> bool:
        return bool(self._layers.get(name))

    def __repr__(self) -> str:
        lines = [f"Recording of {self.family}"]
        for name, layers in self._layers.items():
            shapes = ", ".join(dict.fromkeys(str(tuple(layer.shape)) for layer in layers))
            if layers:
                lines.append(f"  {name}: {len(layers)} layers of {shapes}")
        if len(lines) == 1:
            lines.append("  nothing yet")
        return "\n".join([*lines, *(f"  Note: {note}." for note in self.notes)])

    def grid_of(self, cells: int) -> tuple[int, int]:
        """Rows and columns of a map of so many cells: the masks' grid at a coarser stride.

        Raises RecordingError where the mask logits, by whose size it is told, were not recorded.
        """
        height, width = self._mask_size or (0, 0)
        for stride in range(1, max(height, width) + 1):
            grid = -(-height // stride), -(-width // stride)
            if grid[0] * grid[1] == cells:
                return grid
        raise RecordingError(
            f"{cells} cells may be a grid of several sizes: give grid=(rows, columns), or record "
            "mask_logits, too"
        )

    def _replace(
        self, layers: dict[str, list[Tensor]], mask_size: tuple[int, int] | None = None
    ) -> None:
        self._layers.update({name: layers.get(name, []) for name in self._layers})
        self._mask_size = mask_size


def _joined(layers: list[Tensor]) -> Tensor:
    """Layers of one shape as one tensor; not copied where they are slices of one, as ours are."""
    first = layers[0]
    step = layers[-1].storage_offset() - first.storage_offset()
    step = step // max(len(layers) - 1, 1)
    evenly = all(
        layer.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and layer.storage_offset() == first.storage_offset() + index * step
        and layer.stride() == first.stride()
        for index, layer in enumerate(layers)
    )
    if not evenly or step <= 0:
        return torch.stack(layers)
    return first.as_strided((len(layers), *first.shape), (step, *first.stride()))
