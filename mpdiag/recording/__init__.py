"""Record what every decoder layer of a query-based segmenter predicts, by forward hooks."""

from mpdiag.recording.canonical_names import CANONICAL_NAMES, select_names
from mpdiag.recording.families import built_in_families
from mpdiag.recording.family import (
    Family,
    InstanceRule,
    family_of,
    find_family,
    is_instance_by_name,
    known_families,
    register,
)
from mpdiag.recording.hook_point import HookPoint
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output
from mpdiag.recording.intervention_points import InterventionPoints, hook_attention_masks
from mpdiag.recording.recorder import Recorder, record
from mpdiag.recording.recording import Recording
from mpdiag.recording.transformers_family import TransformersFamily, transformers_families

__all__ = [
    "CANONICAL_NAMES",
    "Family",
    "HookPoint",
    "HookSpec",
    "HookSpecs",
    "InstanceRule",
    "InterventionPoints",
    "ModuleCall",
    "Recorder",
    "Recording",
    "TransformersFamily",
    "family_of",
    "find_family",
    "first_output",
    "hook_attention_masks",
    "is_instance_by_name",
    "known_families",
    "record",
    "register",
    "select_names",
    "transformers_families",
]

for _family in reversed(built_in_families()):  # the family registered last is asked first
    register(_family)
