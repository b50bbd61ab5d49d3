"""Write the detections of a run, layer by layer, for other tools; needs no torch."""

from mpdiag.export.coco import export_coco
from mpdiag.export.detections import layers_with_detections
from mpdiag.export.fiftyone import export_fiftyone

EXPORTERS = {"coco": export_coco, "fiftyone": export_fiftyone}
"""Format -> function of a `Run` and a new folder that returns the files it wrote."""

__all__ = ["EXPORTERS", "export_coco", "export_fiftyone", "layers_with_detections"]
