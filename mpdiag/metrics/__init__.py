"""Layer metrics as pure tensor functions, and AP, PQ and mIoU."""

from mpdiag.metrics.average_precision import AveragePrecision, CocoAP
from mpdiag.metrics.layer_iou import (
    LayerMiou,
    adjacent_iou,
    adjacent_overlap,
    layer_miou,
    valid_cells,
)
from mpdiag.metrics.panoptic_quality import PanopticQuality, PanopticScores, Quality, segment_map
from mpdiag.metrics.rows import ImageRows, covered_by_others, image_rows
from mpdiag.metrics.semantic_iou import SemanticIoU, SemanticScores, class_map
from mpdiag.metrics.utilization import query_utilization, utilization

__all__ = [
    "AveragePrecision",
    "CocoAP",
    "ImageRows",
    "LayerMiou",
    "PanopticQuality",
    "PanopticScores",
    "Quality",
    "SemanticIoU",
    "SemanticScores",
    "adjacent_iou",
    "adjacent_overlap",
    "class_map",
    "covered_by_others",
    "image_rows",
    "layer_miou",
    "query_utilization",
    "segment_map",
    "utilization",
    "valid_cells",
]
