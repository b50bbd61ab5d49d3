"""Settings of detectron2's YAML files that complete or contradict the weights."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpdiag.checkpoints import load_checkpoint, save_checkpoint
from mpdiag.checkpoints.convert import convert
from mpdiag.checkpoints.detectron2_config import TrainingInfo, find_config
from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig
from mpdiag.errors import ConfigError
from mpdiag.models import Mask2Former

# From the released ADE20K files.
BASE = """
MODEL:
  BACKBONE: {FREEZE_AT: 0, NAME: "build_resnet_backbone"}
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  RESNETS: {DEPTH: 18, STEM_OUT_CHANNELS: 8, STRIDE_IN_1X1: False, NORM: "SyncBN"}
DATASETS:
  TEST: ("ade20k_panoptic_val",)
INPUT:
  MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 21)]"]
  MIN_SIZE_TEST: 512
  MAX_SIZE_TEST: 2048
  FORMAT: "RGB"
VERSION: 2
"""
MODEL = """
_BASE_: ../Base-ADE20K.yaml
MODEL:
  SEM_SEG_HEAD: {NUM_CLASSES: 3, CONVS_DIM: 32, MASK_DIM: 16, TRANSFORMER_ENC_LAYERS: 1}
  MASK_FORMER:
    HIDDEN_DIM: 32
    NUM_OBJECT_QUERIES: 6
    DIM_FEEDFORWARD: 32
    DEC_LAYERS: 5  # one for the loss on learnable query
    CLASS_WEIGHT: 4.0
    MASK_WEIGHT: 5.0
    DICE_WEIGHT: 3.0
    NO_OBJECT_WEIGHT: 0.1
    TRAIN_NUM_POINTS: 1000
INPUT: {MIN_SIZE_TEST: 640}
"""


@pytest.fixture
def checkpoint(tmp_path: Path, small_model: Mask2Former) -> Path:
    """Write a model with 4 heads and its config files."""
    folder = tmp_path / "swin"
    folder.mkdir()
    (tmp_path / "Base-ADE20K.yaml").write_text(BASE)
    (folder / "config.yaml").write_text(MODEL)
    save_checkpoint(folder / "model_final.pth", small_model)
    return folder / "model_final.pth"


def change(checkpoint: Path, key: str, value: Any) -> None:
    file = checkpoint.with_name("config.yaml")
    content = yaml.safe_load(file.read_text())
    *groups, last = key.split(".")
    place = content
    for group in groups:
        place = place.setdefault(group, {})
    place[last] = value
    file.write_text(yaml.safe_dump(content))


def test_a_config_beside_the_weights_adds_settings(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    training_info = loaded.training_info
    assert loaded.config_path == checkpoint.with_name("config.yaml")
    assert training_info.loss.model_dump() | {
        "class_weight": 4.0, "mask_weight": 5.0, "dice_weight": 3.0, "num_points": 1000
    } == training_info.loss.model_dump()  # fmt: skip
    assert (training_info.short_side, training_info.long_side) == (640, 2048)
    assert training_info.dataset.dataset == "ade20k_panoptic_val"


def test_an_evaluation_with_other_values_is_reported(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = {"OVERLAP_THRESHOLD": 0.5, "OBJECT_MASK_THRESHOLD": 0.8}
    content = {"MODEL": {"MASK_FORMER": {"TEST": test}}, "INPUT": {"MIN_SIZE_TEST": 0}}
    checkpoint.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    loaded = load_checkpoint(checkpoint)
    (message,) = caplog.messages
    assert message.endswith("OVERLAP_THRESHOLD is 0.5, but mpdiag evaluates with 0.8")
    assert loaded.image_size == (None, 1333)  # 0: images keep their size


def test_heads_and_pixel_statistics(checkpoint: Path, small_config: ModelConfig) -> None:
    """The weights have 16 sampling points: 4 heads with 4 each, or 2 heads with 8 each."""
    assert load_checkpoint(checkpoint).model.config == small_config
    change(checkpoint, "MODEL.MASK_FORMER.NHEADS", 2)
    change(checkpoint, "MODEL.PIXEL_STD", [1.0, 2.0, 3.0])
    config = load_checkpoint(checkpoint).model.config
    assert (config.num_heads, config.encoder_points) == (2, 8)
    assert config.pixel_std == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 80),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 256),
        ("MODEL.SEM_SEG_HEAD.MASK_DIM", 32),
        ("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 6),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"),
        ("MODEL.MASK_FORMER.HIDDEN_DIM", 256),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 100),
        ("MODEL.MASK_FORMER.DIM_FEEDFORWARD", 2048),
        ("MODEL.MASK_FORMER.DEC_LAYERS", 4),
        ("MODEL.MASK_FORMER.NHEADS", 3),
        ("MODEL.MASK_FORMER.NHEADS", "eight"),
        ("MODEL.MASK_FORMER.NHEADS", None),
        ("MODEL.MASK_FORMER.NHEADS", "{{}}"),
        ("MODEL.MASK_FORMER.NHEADS", "{[]: 1}"),
        ("MODEL.MASK_FORMER.PRE_NORM", True),
        ("MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", 0.5),
        ("MODEL.BACKBONE.NAME", "D2SwinTransformer"),
        ("MODEL.META_ARCHITECTURE", "VideoMaskFormer"),
        ("MODEL.RESNETS.DEPTH", 50),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True),
        ("INPUT.FORMAT", "BGR"),
        ("INPUT.MIN_SIZE_TEST", -1),
    ],
)
def test_a_contradiction_is_reported_with_its_key(checkpoint: Path, key: str, value: Any) -> None:
    change(checkpoint, key, value)
    with pytest.raises(ConfigError, match=re.escape(f"config.yaml: {key} is {value!r}")):
        load_checkpoint(checkpoint)


def test_window_size_and_drop_path_of_a_swin(tmp_path: Path, small_config: ModelConfig) -> None:
    backbone = BackboneConfig(
        name="swin", embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=3
    )
    model = Mask2Former(small_config.model_copy(update={"backbone": backbone}))
    save_checkpoint(tmp_path / "model_final.pth", model)
    swin = {"EMBED_DIM": 8, "DEPTHS": [1, 1, 2, 1], "NUM_HEADS": [1, 2, 4, 8], "WINDOW_SIZE": 3}
    content: dict[str, Any] = {"MODEL": {"BACKBONE": {"NAME": "D2SwinTransformer"}, "SWIN": swin}}
    content["MODEL"]["RESNETS"] = {"DEPTH": 50}  # from its base file
    swin["DROP_PATH_RATE"] = 0.25
    config = tmp_path / "elsewhere" / "swin.yaml"
    config.parent.mkdir()
    config.write_text(yaml.safe_dump(content))
    loaded = load_checkpoint(tmp_path / "model_final.pth", config)
    assert loaded.model.config.backbone == backbone.model_copy(update={"drop_path_rate": 0.25})
    swin["WINDOW_SIZE"] = 7
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"MODEL\.SWIN\.WINDOW_SIZE is 7, but .* with 3"):
        load_checkpoint(tmp_path / "model_final.pth", config)


def test_find_config(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model_final.pth"
    assert find_config(checkpoint) is None
    (tmp_path / "recipe.yaml").write_text("model: {}")
    assert find_config(checkpoint) is None  # not a detectron2 file
    (tmp_path / "recipe.yaml").unlink()
    (tmp_path / "Base-COCO.yaml").write_text("MODEL: {}")
    (tmp_path / "maskformer2_R50.yaml").write_text("_BASE_: Base-COCO.yaml")
    assert find_config(checkpoint) == tmp_path / "maskformer2_R50.yaml"
    (tmp_path / "maskformer2_R101.yaml").write_text("_BASE_: Base-COCO.yaml")
    assert find_config(checkpoint) is None  # ambiguous
    (tmp_path / "config.yaml").write_text("MODEL: {}")
    assert find_config(checkpoint) == tmp_path / "config.yaml"
    (tmp_path / "model_final.yaml").write_text("MODEL: {}")
    assert find_config(checkpoint) == tmp_path / "model_final.yaml"


def test_a_file_of_another_tool_beside_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "model_final.pth"
    for text in ("- cat\n- dog", "names: [cat"):
        (tmp_path / "classes.yaml").write_text(text)
        assert find_config(checkpoint) is None
        assert "classes.yaml: " in caplog.text and "not used with" in caplog.text
        caplog.clear()
    for name in ("config.yaml", "model_final.yaml"):  # surely meant for the weights
        (tmp_path / name).write_text("- cat")
        with pytest.raises(ConfigError, match=rf"{name}: contains \['cat'\], not a mapping"):
            find_config(checkpoint)


def test_a_converted_checkpoint_has_its_own_settings(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    (tmp_path / "there").mkdir()
    info = TrainingInfo(LossConfig(class_weight=7.0))
    write_transformers(tmp_path / "there", small_model, info, labels=["a", "b", "c"])
    convert(tmp_path / "there", tmp_path / "converted.pth")
    found = load_checkpoint(tmp_path / "converted.pth")
    assert found.labels == ["a", "b", "c"]
    assert found.training_info is not None and found.training_info.loss.class_weight == 7
    config = tmp_path / "heads.yaml"
    config.write_text("MODEL: {MASK_FORMER: {NHEADS: 4}}")
    with pytest.raises(ConfigError, match=r"heads.yaml: .*converted.pth holds its own config"):
        load_checkpoint(tmp_path / "converted.pth", config)
