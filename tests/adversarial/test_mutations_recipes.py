"""Seeded mutations of recipes and detectron2 configurations: a recipe, or an MpdiagError."""

import random
import time
from pathlib import Path

import pytest
import yaml

from mpdiag.errors import MpdiagError
from trainers.recipe import read_recipe, recipe_text

from .mutations import check_error, mutate_bytes, mutate_tree, seeds

DETECTRON2 = """
_BASE_: base.yaml
MODEL:
  META_ARCHITECTURE: MaskFormer
  BACKBONE: {NAME: build_resnet_backbone, FREEZE_AT: 0}
  RESNETS: {DEPTH: 50, STEM_TYPE: basic, OUT_FEATURES: [res2, res3, res4, res5], NORM: FrozenBN}
  SEM_SEG_HEAD: {NAME: MaskFormerHead, NUM_CLASSES: 80, CONVS_DIM: 256, MASK_DIM: 256}
  MASK_FORMER: {NUM_OBJECT_QUERIES: 100, DEC_LAYERS: 10, NHEADS: 8, DEEP_SUPERVISION: true}
SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.0001, STEPS: (327778, 355092), MAX_ITER: 368750}
INPUT:
  MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 0.1 * 640) for x in range(5, 21)]"]
  IMAGE_SIZE: 1024
DATASETS: {TRAIN: (coco_2017_train,), TEST: (coco_2017_val,)}
"""
BASE = "MODEL: {WEIGHTS: R-50.pkl, PIXEL_MEAN: [123.675, 116.280, 103.530]}\nVERSION: 2\n"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """File name -> text of a whole recipe and of a detectron2 configuration with its base."""
    recipe = recipe_text(read_recipe("synthetic-tiny"))
    return {"recipe.yaml": recipe, "detectron2.yaml": DETECTRON2, "base.yaml": BASE}


def read(path: Path) -> None:
    started = time.process_time()
    try:
        recipe_text(read_recipe(path))
    except MpdiagError as error:
        check_error(error)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("entry", ["recipe.yaml", "detectron2.yaml"])
def test_mutated_texts(tmp_path: Path, texts: dict[str, str], entry: str) -> None:
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    read(tmp_path / entry)
    for seed in seeds(300):
        rng = random.Random(seed)
        name = entry if entry == "recipe.yaml" else rng.choice((entry, "base.yaml"))
        (tmp_path / name).write_bytes(mutate_bytes(texts[name].encode(), rng))
        read(tmp_path / entry)
        (tmp_path / name).write_text(texts[name])


def test_mutated_values(tmp_path: Path, texts: dict[str, str]) -> None:
    path = tmp_path / "recipe.yaml"
    content = yaml.safe_load(texts["recipe.yaml"])
    for seed in seeds(300):
        changed = mutate_tree(content, random.Random(seed))
        path.write_text(yaml.safe_dump(changed))
        read(path)
