"""Small COCO data sets that tests damage, and a small model with synthetic images."""

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.config import DataConfig, ModelConfig, TrainConfig
from mpdiag.data import SegmentationDataset, generate_synthetic, load_dataset
from mpdiag.models import Mask2Former

HEIGHT, WIDTH = 20, 30
Write = Callable[..., Path]


def _write(folder: Path, name: str, content: Any, text: str | None) -> Path:
    path = folder / f"{name}_val.json"
    path.write_text(json.dumps(content) if text is None else text)
    return path


def instance_content() -> dict[str, Any]:
    """Image 1: a polygon, an uncompressed and a compressed RLE; image 2: no object."""
    plain = {"size": [HEIGHT, WIDTH], "counts": [25, 10, HEIGHT * WIDTH - 35]}
    packed = coco_mask.frPyObjects(plain, HEIGHT, WIDTH)
    packed["counts"] = packed["counts"].decode()
    polygon = [[1.5, 1.5, 12, 2, 9.5, 15, 3, 11], [15, 10, 19, 10, 19, 18]]
    return {
        "images": [
            {"id": k, "file_name": f"{k}.png", "height": HEIGHT, "width": WIDTH} for k in (1, 2)
        ],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 3, "area": 9.5, "iscrowd": 0,
             "bbox": [0, 0, 1, 1], "segmentation": segmentation}
            for k, segmentation in enumerate([polygon, plain, packed], 11)
        ],
        "categories": [{"id": 3, "name": "cup"}, {"id": 5, "name": "car"}],
    }  # fmt: skip


def panoptic_content() -> dict[str, Any]:
    """Image 1 with the segments 5 and 70000."""
    return {
        "images": [{"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [
            {"id": 5, "category_id": 3, "iscrowd": 0}, {"id": 70000, "category_id": 5},
        ]}],
        "categories": [{"id": 3, "name": "cup"}, {"id": 5, "name": "sky", "isthing": 0}],
    }  # fmt: skip


@pytest.fixture
def instances(tmp_path: Path) -> Write:
    """Write `instance_content()`, changed by a function or replaced by a text, and its images."""

    def write(edit: Callable[[dict[str, Any]], Any] = lambda _: None, text: str | None = None):
        for name in ("1", "2"):
            Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(tmp_path / f"{name}.png")
        content = instance_content()
        edit(content)
        return _write(tmp_path, "instances", content, text)

    return write


@pytest.fixture
def panoptic(tmp_path: Path) -> Write:
    """As `instances`, with `panoptic_content()` and its PNG."""

    def write(edit: Callable[[dict[str, Any]], Any] = lambda _: None, text: str | None = None):
        Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(tmp_path / "1.png")
        ids = np.full((HEIGHT, WIDTH), 5)
        ids[5:, 9:] = 70000
        colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
        (tmp_path / "panoptic_val").mkdir(exist_ok=True)
        Image.fromarray(colors).save(tmp_path / "panoptic_val/1.png")
        content = panoptic_content()
        edit(content)
        return _write(tmp_path, "panoptic", content, text)

    return write


@pytest.fixture
def one_gib() -> Iterator[None]:
    """Limit the memory that the test may allocate to 1 GiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    generate_synthetic(root / "synthetic", train=4, val=6, size=64)
    return root


@pytest.fixture(scope="session")
def synthetic(synthetic_root: Path) -> SegmentationDataset:
    return load_dataset("synthetic", root=synthetic_root)


@pytest.fixture
def build_checkpoint(small_config: ModelConfig) -> Callable[[int], LoadedCheckpoint]:
    """Build a model whose masks differ from layer to layer, for images at their own size."""

    def build(num_classes: int) -> LoadedCheckpoint:
        torch.manual_seed(0)
        config = small_config.model_copy(update={"num_classes": num_classes, "num_queries": 8})
        model = Mask2Former(config).eval()
        with torch.no_grad():
            model.decoder.query_feat.weight.mul_(3)
            model.pixel_decoder.mask_features.weight.mul_(8)
        recipe = TrainConfig(model=config, data=DataConfig())
        return LoadedCheckpoint(Path("small.pth"), "mpdiag", "0" * 64, model, recipe=recipe)

    return build


@pytest.fixture
def small_checkpoint(
    build_checkpoint: Callable[[int], LoadedCheckpoint], synthetic: SegmentationDataset
) -> LoadedCheckpoint:
    return build_checkpoint(len(synthetic.classes))
