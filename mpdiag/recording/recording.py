"""Recorded tensors of one forward pass, by canonical name."""

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.recording.canonical_names import CANONICAL_NAMES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Recording:
    """The recorded tensors of the last forward pass inside `with mpdiag.record(model)`.

    The attributes are the canonical names (`mpdiag.recording.CANONICAL_NAMES`): `mask_logits` is
    (L + 1, B, N, h, w), `class_logits` is (L + 1, B, N, K + 1). A name whose shape differs between
    layers (`attention_mask`) is a list with one tensor per layer. Tensors are detached. Reading a
    name that was not recorded raises RecordingError.

    `family` is the name of the model's family. `notes` are sentences that a reader of the values
    must know.
    """

    def __init__(
        self,
        family: str,
        notes: Sequence[str],
        requested: Sequence[str],
        available: Container[str] = (),
    ) -> None:
        """Create an empty recording of `requested` names out of those `available`."""
        self.family = family
        self.notes = tuple(notes)
        self._available = available
        self._layers: dict[str, list[Tensor]] = {name: [] for name in requested}
        self._mask_size: tuple[int, int] | None = None  # before any reduction

    def layers(self, name: str) -> list[Tensor]:
        """Return the tensors called `name`, one per layer in which the model has one.

        Raises:
            RecordingError: the name was not recorded.
        """
        if name not in self._layers:
            if name in self._available:
                fix = f'mpdiag.record(model, only=["*_logits", "{name}"])'
                raise RecordingError(f"{name}: not requested; use {fix}")
            raise RecordingError(f"{name}: not recorded; {self.family} does not have it")
        if not self._layers[name]:
            raise RecordingError(
                f"{name}: not recorded; run the model inside the `with` block first, and do not "
                "compile it"
            )
        return self._layers[name]

    def __getattr__(self, name: str) -> Any:
        if name not in CANONICAL_NAMES:
            known = ", ".join(CANONICAL_NAMES)
            raise AttributeError(f"{name!r}: not an attribute of a recording; it has {known}")
        layers = self.layers(name)
        if any(layer.shape != layers[0].shape for layer in layers):
            return layers
        return _stack(layers)

    def attention(
        self, layer: int, query: int, index: int = 0, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the cross-attention of one query: (heads, rows, columns); each head sums to 1.

        Args:
            layer: decoder layer, 1..L.
            query: index of the query.
            index: index of the image in the batch.
            grid: rows and columns of the map that the layer attends to; None derives them from the
                size of the mask logits.

        Raises:
            RecordingError: no such layer, or the grid can't be derived.
        """
        layers = self.layers("cross_attention")
        if not 1 <= layer <= len(layers):
            raise RecordingError(f"layer {layer}: does not exist; use 1 to {len(layers)}")
        weights = layers[layer - 1][index, :, query]
        rows, columns = grid or self.attention_grid(weights.shape[-1])
        return weights.view(-1, rows, columns)

    def to_dataframe(self, valid: Sequence[tuple[int, int]] | None = None) -> "pd.DataFrame":
        """Return a table with one row per image, layer and query.

        Columns: image (index in the batch), layer, query, area (cells of the mask), iou_prev (IoU
        with the previous layer; NaN in layer 0 and where both masks are empty), label and score if
        class_logits were recorded, matched_gt if assignment was recorded.

        Args:
            valid: rows and columns of the mask grid that each image covers without padding; None
                for the whole grid.
        """
        from mpdiag.recording.dataframe import build_dataframe

        classes = self.class_logits if "class_logits" in self else None
        assignment = self.assignment if "assignment" in self else None
        return build_dataframe(self._masks(), classes, assignment, valid)

    def plot(
        self,
        query: int,
        image: Any = None,
        *,
        index: int = 0,
        valid: tuple[int, int] | None = None,
        layers: Sequence[int] | None = None,
    ) -> "Figure":
        """Plot the mask of one query in each layer over the image, like Figure 1 of the paper.

        The title of each panel gives the IoU with the previous layer and, if class_logits were
        recorded, the class and its score.

        Args:
            query: index of the query.
            image: (H, W, 3) or (3, H, W), or a PIL image; grey background if None.
            index: index of the image in the batch.
            valid: rows and columns of the mask grid that the image covers; all if None.
            layers: layers to plot, 0..L; all if None.

        Raises:
            RecordingError: an index is out of range, or `image` is not an image.
        """
        from mpdiag.recording.figure import plot_layers

        masks = self._masks()
        count, batch, queries = masks.shape[:3]
        chosen = list(range(count)) if layers is None else list(layers)
        _check_range("query", query, queries)
        _check_range("index", index, batch)
        for layer in chosen:
            _check_range("layer", layer, count)
        rows, columns = valid or (masks.shape[-2], masks.shape[-1])
        table = self.to_dataframe(valid and [valid] * batch)
        table = table[(table["image"] == index) & (table["query"] == query)].set_index("layer")
        return plot_layers(
            (masks[:, index, query, :rows, :columns] > 0).cpu().numpy(),
            table,
            image,
            chosen,
            f"Query {query} of {self.family}, layer by layer",
        )

    def __contains__(self, name: str) -> bool:
        return bool(self._layers.get(name))

    def __repr__(self) -> str:
        lines = [f"Recording of {self.family}"]
        for name, layers in self._layers.items():
            shapes = ", ".join(dict.fromkeys(str(tuple(layer.shape)) for layer in layers))
            if layers:
                lines.append(f"  {name}: {len(layers)} layers of {shapes}")
        if len(lines) == 1:
            lines.append("  empty")
        return "\n".join([*lines, *(f"  Note: {note}." for note in self.notes)])

    def attention_grid(self, cells: int) -> tuple[int, int]:
        """Return rows and columns of a feature map: the mask grid at a coarser stride.

        Raises:
            RecordingError: no stride gives this number of cells, or mask_logits were not recorded.
        """
        return grid_of_cells(self._mask_size or (0, 0), cells)

    def replace(
        self, layers: dict[str, list[Tensor]], mask_size: tuple[int, int] | None = None
    ) -> None:
        """Replace all tensors by those of another pass; the recorder calls this."""
        self._layers.update({name: layers.get(name, []) for name in self._layers})
        self._mask_size = mask_size

    def _masks(self) -> Tensor:
        """Return (L + 1, B, N, h, w) mask logits; RecordingError if their sizes differ."""
        masks = self.mask_logits
        if not isinstance(masks, Tensor):
            sizes = ", ".join(str(tuple(layer.shape)) for layer in masks)
            raise RecordingError(
                f"mask_logits: layers of different sizes ({sizes}) can't be compared"
            )
        return masks


def _check_range(what: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise RecordingError(f"{what} {value}: does not exist; use 0 to {count - 1}")


def _stack(layers: list[Tensor]) -> Tensor:
    """Stack layers of one shape; without a copy if they are slices of one tensor."""
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


def grid_of_cells(mask_size: tuple[int, int], cells: int) -> tuple[int, int]:
    """Return rows and columns of a feature map; see `Recording.attention_grid`."""
    height, width = mask_size
    for stride in range(1, max(height, width) + 1):
        grid = -(-height // stride), -(-width // stride)
        if grid[0] * grid[1] == cells:
            return grid
    raise RecordingError(
        f"{cells} cells: the grid is unknown; pass grid=(rows, columns), or record mask_logits "
        "as well"
    )
