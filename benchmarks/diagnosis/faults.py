"""All planted faults."""

from benchmarks.diagnosis import annotation_faults, forward_faults, weight_faults
from benchmarks.diagnosis.fault import AnnotationFault, Fault, ModelFault

QUERIES = "share of queries"
OBJECTS = "share of objects"
LAYERS = "layers"

_MODEL_FAULTS = (
    ModelFault(
        "swapped-classes", "class-confusion", (1, 1, 2, 2, 3, 3), "pairs",
        weight_faults.swap_classes,
    ),
    ModelFault(
        "scrambled-class-head", "class-head", (0.3, 0.4, 0.5, 0.65, 0.8, 1), "share of weights",
        weight_faults.scramble_class_head,
    ),
    ModelFault(
        "no-object-bias", "no-object-bias", (2, 3, 4, 6, 8, 10), "logits",
        weight_faults.raise_no_object_bias,
    ),
    ModelFault(
        "dead-queries", "dead-queries", (0.15, 0.2, 0.25, 0.35, 0.5, 0.6), QUERIES,
        forward_faults.kill_queries,
    ),
    ModelFault(
        "copied-queries", "duplicate-queries", (0.15, 0.2, 0.25, 0.35, 0.5, 0.6), QUERIES,
        weight_faults.copy_queries,
    ),
    ModelFault(
        "removed-queries", "too-few-queries", (0.4, 0.5, 0.6, 0.7, 0.75, 0.8), QUERIES,
        weight_faults.remove_queries,
    ),
    ModelFault(
        "emptied-masks", "empty-masks", (0.15, 0.2, 0.25, 0.35, 0.5, 0.6), QUERIES,
        forward_faults.empty_masks,
    ),
    ModelFault(
        "switched-masks", "query-switching", (0.15, 0.2, 0.25, 0.35, 0.5, 0.6), QUERIES,
        forward_faults.switch_masks,
    ),
    ModelFault(
        "shifted-attention", "misleading-attention", (0.1, 0.15, 0.2, 0.25, 0.33, 0.4),
        "share of the side", forward_faults.shift_attention,
    ),
    ModelFault(
        "no-self-attention", "self-attention", (1, 2, 3, 4, 5, 6), LAYERS,
        weight_faults.remove_self_attention,
    ),
    ModelFault(
        "random-scores", "ranking", (0.3, 0.4, 0.5, 0.7, 0.85, 1), "share of the score",
        forward_faults.randomize_scores,
    ),
    ModelFault(
        "bgr-input", "channel-order", (0.7, 0.75, 0.8, 0.9, 1, 1), "share of images",
        forward_faults.swap_channels,
    ),
    ModelFault(
        "wrong-normalisation", "normalisation", (0, 1, 2, 3, 4, 5), "number",
        forward_faults.change_normalisation,
    ),
    ModelFault(
        "small-input", "input-scale", (0.75, 0.7, 0.6, 0.5, 0.4, 0.35), "scale",
        forward_faults.shrink_input,
    ),
    ModelFault(
        "shifted-masks", "mask-offset", (0.5, 0.75, 1, 1.5, 2, 2.5), "cells",
        forward_faults.shift_masks,
    ),
    ModelFault(
        "noised-late-layers", "late-layers", (0.2, 0.3, 0.4, 0.5, 0.7, 1),
        "standard deviations", weight_faults.noise_late_layers,
    ),
    ModelFault(
        "noised-mask-head", "mask-head", (0.2, 0.3, 0.4, 0.5, 0.7, 1), "standard deviations",
        weight_faults.noise_mask_head,
    ),
    ModelFault(
        "noised-early-layers", "early-layers", (1, 1.2, 1.5, 2, 3, 4),
        "standard deviations", weight_faults.noise_early_layers,
    ),
    ModelFault(
        "ignored-small-objects", "small-objects", (2, 3, 4, 6, 8, 10), "logits",
        forward_faults.ignore_small_objects,
    ),
    ModelFault(
        "shrunken-masks", "localisation", (2, 2.5, 3, 3.5, 4, 5), "logits",
        forward_faults.shrink_masks,
    ),
    ModelFault(
        "coarse-numbers", "precision", (5, 4, 3, 2, 1, 0), "bits of the mantissa",
        forward_faults.drop_bits,
    ),
    ModelFault(
        "overflow", "non-finite", (0.05, 0.1, 0.2, 0.3, 0.4, 0.5), QUERIES,
        forward_faults.overflow,
    ),
)  # fmt: skip

_ANNOTATION_FAULTS = (
    AnnotationFault(
        "mislabelled-objects", "label-noise", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4), OBJECTS,
        annotation_faults.mislabel,
    ),
    AnnotationFault(
        "removed-objects", "missing-labels", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4), OBJECTS,
        annotation_faults.remove_objects,
    ),
    AnnotationFault(
        "objects-annotated-twice", "overlapping-labels", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4), OBJECTS,
        annotation_faults.annotate_twice,
    ),
)  # fmt: skip

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*_MODEL_FAULTS, *_ANNOTATION_FAULTS)}
