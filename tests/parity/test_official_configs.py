"""Translation of all configurations of the repositories of Mask2Former and MP-Former.

MPDIAG_OFFICIAL_SOURCES is a folder with checkouts `Mask2Former` and `MP-Former`, and `detectron2`
for the defaults. Their code is parsed, not imported.
"""

import ast
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mpdiag.checkpoints.detectron2_config import training_info_of, update_model_config
from mpdiag.checkpoints.detectron2_yaml import override, read_detectron2_config
from mpdiag.config import TrainConfig, merge
from mpdiag.data import DETECTRON2_NAMES
from mpdiag.errors import ConfigError
from mpdiag.models.swin import PUBLISHED_SWINS
from trainers.detectron2_recipes import translate
from trainers.detectron2_recipes.keys import DEFAULTS, is_known
from trainers.recipe import load_recipe, read_recipe

SOURCES = Path(os.environ.get("MPDIAG_OFFICIAL_SOURCES", "no such folder"))
REPOSITORIES = ("Mask2Former", "MP-Former")

pytestmark = pytest.mark.skipif(
    not all((SOURCES / name / "configs").is_dir() for name in REPOSITORIES),
    reason="MPDIAG_OFFICIAL_SOURCES has no checkouts of Mask2Former and MP-Former",
)

FORMER = "MODEL.MASK_FORMER"
# Options of MP-Former's training scripts, with the values of the paper's appendix B.
PILOTED = (
    "MODEL.DN.NUM_DN", "100", "MODEL.DN.NOISE_SCALE", "0.2", f"{FORMER}.DN_MODE", "points",
    f"{FORMER}.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoderMaskDN",
    f"{FORMER}.ALL_LY_DN", "True", f"{FORMER}.LB_NOISE_RATIO", "0.2",
)  # fmt: skip


def files(repository: str) -> list[Path]:
    return sorted((SOURCES / repository / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_file_is_translated_or_rejected_with_a_reason(repository: str) -> None:
    translated = 0
    for path in files(repository):
        if path.name.startswith("Base"):
            reason = "so it is only a base"
        elif path.parts[-3].startswith("youtubevis") or path.parts[-2].startswith("youtubevis"):
            reason = "video models are not supported"
        else:
            recipe = read_recipe(path)
            assert recipe.translation is not None
            assert recipe.translation.unknown == (), path
            translated += 1
            continue
        with pytest.raises(ConfigError, match=reason) as caught:
            read_recipe(path)
        assert "\n" not in str(caught.value)
    assert translated == {"Mask2Former": 47, "MP-Former": 73}[repository]


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_file_describes_its_architecture(repository: str) -> None:
    """`--config` of an analysis and training agree on the settings of a file."""
    for path in files(repository):
        values = read_detectron2_config(path)
        if path.name.startswith("Base") or "youtubevis" in str(path):
            continue
        config = load_recipe(path)
        name = config.model.backbone.name.split(".")[0]
        read: dict[str, Any] = {"name": name, "pretrained": False}
        if name in PUBLISHED_SWINS:  # the shape is read from the weights, not the name
            read |= {"name": "swin", **asdict(PUBLISHED_SWINS[name][0])}
        bare = config.model.backbone.model_copy(update=read)
        model = config.model.model_copy(update={"backbone": bare})
        assert update_model_config(values, model, 8 * 4, str(path)) == model
        training_info = training_info_of(values, str(path))
        assert training_info.loss == config.loss
        sizes = training_info.short_side or 800, training_info.long_side or 1333
        assert sizes == (config.data.short_side, config.data.long_side)
        assert training_info.dataset.dataset in DETECTRON2_NAMES


def pairs() -> Iterator[tuple[str, str, tuple[str, ...], str, dict[str, Any]]]:
    """Yield repository, file, changes, packaged recipe, and the expected differences.

    Recipes take the number of classes from the data set and use the variant of MP-Former's paper.
    Those of Swin-L on Cityscapes keep the ResNet's norm, which has no effect on a Swin.
    """
    tasks = {"instance": (100, 8, 80), "panoptic": (150, 19, 133), "semantic": (150, 19, None)}
    for task, (ade, city, coco) in tasks.items():
        folder = f"{task}-segmentation"
        res640 = "_res640" if task == "semantic" else ""
        ade_classes = {"model.num_classes": ade}
        city_classes = {"model.num_classes": city}
        frozen = {"model.backbone.norm": "frozen"}
        official = {"pilot.variant": "official"}
        swin = "swin/maskformer2_swin_large_IN21k_384_bs16"
        for repository, steps, changes, method, by in (
            ("Mask2Former", "", (), "mask2former", {}),
            ("MP-Former", "_steplr", PILOTED, "mp-former", official),
        ):
            yield (
                repository, f"ade20k/{folder}/maskformer2_R50_bs16_160k{steps}", changes,
                f"table2-{method}-r50-{task}", ade_classes | by,
            )  # fmt: skip
            yield (
                repository, f"ade20k/{folder}/{swin}_160k{res640}{steps}", changes,
                f"table2-{method}-swin-l-{task}", ade_classes | by,
            )  # fmt: skip
            yield (
                repository, f"cityscapes/{folder}/maskformer2_R50_bs16_90k{steps}", changes,
                f"cityscapes-{method}-r50-{task}", city_classes | by,
            )  # fmt: skip
            yield (
                repository, f"cityscapes/{folder}/{swin}_90k{steps}", changes,
                f"cityscapes-{method}-swin-l-{task}", city_classes | frozen | by,
            )  # fmt: skip
        if coco is not None:
            classes = {} if coco == 80 else {"model.num_classes": coco}
            for depth in ("50", "101"):
                yield (
                    "Mask2Former", f"coco/{folder}/maskformer2_R{depth}_bs16_50ep", (),
                    f"table3-mask2former-r{depth}-coco-{task}", classes,
                )  # fmt: skip
            query = "_DN_query" if task == "instance" else ""
            yield (
                "MP-Former", f"coco/{folder}/maskformer2_R50_bs16_36ep{query}", PILOTED,
                f"table3-mp-former-r50-coco-{task}", classes | official,
            )  # fmt: skip
    folder = "coco/instance-segmentation"
    yield (
        "Mask2Former", f"{folder}/swin/maskformer2_swin_large_IN21k_384_bs16_100ep", (),
        "coco-mask2former-swin-l-instance", {},
    )  # fmt: skip
    yield (
        "MP-Former", f"{folder}/maskformer2_R50_bs16_12ep_DN_query", PILOTED,
        "table4-5-all-layers", official,
    )  # fmt: skip
    yield (
        "MP-Former", f"{folder}/maskformer2_R50_bs16_50ep_DN_query", PILOTED,
        "table4-5-all-layers-50ep", official,
    )  # fmt: skip


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def differences(found: TrainConfig, recipe: TrainConfig) -> dict[str, Any]:
    here, there = flat(found.model_dump()), flat(recipe.model_dump())
    return {key: here[key] for key in here if here[key] != there[key]}


def test_packaged_recipes_equal_the_official_files() -> None:
    for repository, file, changes, recipe, expected in pairs():
        path = SOURCES / repository / "configs" / f"{file}.yaml"
        found = differences(load_recipe(path, changes), load_recipe(recipe))
        assert found == expected, (file, recipe)


def defaults(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the literal values of `_C.A.B = value` and `cfg.A.B = value` in a Python file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Assign):
            continue
        target = ast.unparse(node.targets[0])
        root, _, key = target.partition(".")
        if root not in ("_C", "cfg") or not key:
            continue
        value = node.value
        if isinstance(value, ast.Call):  # CN({"ENABLED": False}), CN(), tuple(...)
            for group in value.args[:1]:
                if isinstance(group, ast.Dict):
                    for name, inner in ast.literal_eval(group).items():
                        yield f"{key}.{name}", inner
        else:
            try:
                yield key, ast.literal_eval(value)
            except ValueError:  # arithmetic such as 112 * 112
                numbers = {n.value for n in ast.walk(value) if isinstance(n, ast.Constant)}
                yield key, {112: 112 * 112, 1000: 1 / 1000}[int(max(numbers))]


@pytest.fixture(scope="module")
def official_defaults() -> dict[str, dict[str, Any]]:
    """Return the defaults of each repository's training by key."""
    shared = [
        SOURCES / "detectron2" / "detectron2" / "config" / "defaults.py",
        SOURCES / "detectron2" / "projects" / "DeepLab" / "deeplab" / "config.py",
    ]
    if not shared[0].is_file():
        pytest.skip("MPDIAG_OFFICIAL_SOURCES has no checkout of detectron2")
    return {
        name: dict(
            pair
            for path in (*shared, SOURCES / name / "mask2former" / "config.py")
            for pair in defaults(path)
        )
        for name in REPOSITORIES
    }


def test_table_of_defaults(official_defaults: dict[str, dict[str, Any]]) -> None:
    found = official_defaults["Mask2Former"] | official_defaults["MP-Former"]
    assert len(found) > 250
    assert [key for key in found if not is_known(key)] == []
    official = {key: x for key, x in DEFAULTS.items() if not key.startswith("MPDIAG.")}
    assert official.keys() <= found.keys()
    for key, value in official.items():
        here = list(value) if isinstance(value, tuple) else value
        there = list(found[key]) if isinstance(found[key], tuple) else found[key]
        assert here == there, key


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_full_config_has_the_same_translation(
    repository: str, official_defaults: dict[str, dict[str, Any]]
) -> None:
    """detectron2 writes a config with all keys next to its checkpoints."""
    task = "coco/instance-segmentation"
    name = "50ep" if repository == "Mask2Former" else "50ep_DN_query"
    path = SOURCES / repository / "configs" / task / f"maskformer2_R50_bs16_{name}.yaml"
    values = read_detectron2_config(path)
    full = merge(override({}, official_defaults[repository]), values)
    assert translate(full, "full") == translate(values, "short")
