"""Pure tensor kernels behind the rows of a run, and the paper's metrics for use in Python."""

from mpdiag.metrics.layer_iou import LayerMiou, adjacent_overlap, layer_miou, valid_cells
from mpdiag.metrics.rows import ImageRows, image_rows
from mpdiag.metrics.utilization import query_utilization, utilization

__all__ = [
    "ImageRows",
    "LayerMiou",
    "adjacent_overlap",
    "image_rows",
    "layer_miou",
    "query_utilization",
    "utilization",
    "valid_cells",
]
