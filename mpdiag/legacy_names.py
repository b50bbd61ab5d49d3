"""Names in the files that mpdiag 0.1 wrote, and what they are called now.

Files written by 0.1 are translated when they are read. In a recipe of the user or on the command
line, an old key is an error that names the new one.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from mpdiag.errors import ConfigError

# Keys of a training configuration: recipes, config.yaml, the recipe inside a checkpoint.
CONFIG_KEYS = {
    "accumulate": "gradient_accumulation_steps",
    "data.augment.crop_category_share": "data.augment.single_category_max_area",
    "data.workers": "data.num_workers",
    "diagnose_every": "layer_metrics_every",
    "diagnose_images": "layer_metrics_images",
    "loss.consistency_weight": "auxiliary_loss.weight",
    "loss.importance": "loss.importance_sample_ratio",
    "loss.oversample": "loss.oversample_ratio",
    "loss.points": "loss.num_points",
    "model.backbone.drop_path": "model.backbone.drop_path_rate",
    "model.backbone.window": "model.backbone.window_size",
    "model.heads": "model.num_heads",
    "optimizer.backbone_multiplier": "optimizer.backbone_lr_multiplier",
    "pilot.feed": "pilot.query_input",
    "pilot.follow": "pilot.variant",
    "pilot.groups": "pilot.num_groups",
    "pilot.queries": "pilot.num_queries",
    "schedule.decline": "schedule.policy",
    "schedule.drops": "schedule.milestones",
    "schedule.factors": "schedule.gammas",
    "schedule.warmup": "schedule.warmup_iterations",
}
# Values of these keys, by their new names.
CONFIG_VALUES = {
    "pilot.variant": {"release": "official"},
    "schedule.policy": {"steps": "multistep"},
}
# Columns of run directories: table, current name, name in 0.1.
RUN_COLUMNS = {"masks": {"change_score": "badness"}}
# Keys of a recipe file beside its settings.
RECIPE_KEYS = {"about": "description"}
# Parameters of training methods in last.pth: first part of their names.
METHOD_PARAMETERS = {
    "heads.": "methods.per-pixel.heads.",
    "piloting.feed.": "methods.piloted.query_input.",
}
# Keys of a dumped training step.
FAILED_STEP_KEYS = {"trouble": "failed_step", "slots": "positions"}


def upgrade_config(values: Any) -> Any:
    """Return a training configuration, or some sections of one, under the current names.

    Anything but a mapping is returned unchanged, for the validation that follows.
    """
    if not isinstance(values, Mapping):
        return values
    upgraded = deepcopy(dict(values))
    for old, new in CONFIG_KEYS.items():
        section, key = _section(upgraded, old)
        if key in section:
            target, new_key = _section(upgraded, new, create=True)
            target.setdefault(new_key, section.pop(key))
    for name, renamed in CONFIG_VALUES.items():
        section, key = _section(upgraded, name)
        for old, new in renamed.items():
            if section.get(key) == old:
                section[key] = new
    return upgraded


def upgrade_method_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict of a training method under the current names."""
    upgraded = {}
    for name, value in state.items():
        old = next((prefix for prefix in METHOD_PARAMETERS if name.startswith(prefix)), "")
        upgraded[METHOD_PARAMETERS.get(old, "") + name.removeprefix(old)] = value
    return upgraded


def reject_old_keys(values: Mapping[str, Any], source: str) -> None:
    """Refuse the keys of 0.1 in a recipe or in overrides.

    Raises:
        ConfigError: names the first old key and its replacement.
    """
    for old, new in (CONFIG_KEYS | RECIPE_KEYS).items():
        section, key = _section(values, old)
        if key in section:
            raise ConfigError(f"{source}: {old} is now {new}; rename it")


def _section(values: Any, name: str, *, create: bool = False) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds the last part of a dotted key, and that part."""
    *sections, key = name.split(".")
    for part in sections:
        values = values.setdefault(part, {}) if create else values.get(part)
        if not isinstance(values, dict):
            return {}, key
    return values, key
