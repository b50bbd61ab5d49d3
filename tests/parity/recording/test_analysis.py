"""Runs of `mpdiag.analyze` for a model of each family, compared with outputs of its library.

The tests compute everything from the outputs of the library's image processor and model for single
images by other means: GT by interpolation, costs and overlaps mask by mask. Models are small and
have random weights. Tolerances: areas are integers and must be equal; costs come from float32
logits of the same kernels, summed in another order.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import mpdiag
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.errors import CheckpointError, ConfigError
from mpdiag.recording import record
from mpdiag.store import Run

t = pytest.importorskip("transformers")

NAMES = ["disc", "square", "star"]  # of the data set; the models have another order
ORDER = ["star", "disc", "square"]
SIDES = {"shortest_edge": 64, "longest_edge": 96}
SQUARE = {"shortest_edge": 64, "longest_edge": 64}
PROCESSORS = {
    "transformers Mask2Former": lambda: t.Mask2FormerImageProcessor(size=SIDES, size_divisor=0),
    "transformers MaskFormer": lambda: t.MaskFormerImageProcessor(size=SIDES, size_divisor=32),
    "transformers OneFormer": lambda: t.OneFormerImageProcessor(size=SIDES),
    "transformers EoMT": lambda: t.EomtImageProcessor(size=SQUARE, do_pad=True),
    "transformers EoMT DINOv3": lambda: t.EomtImageProcessor(size=SQUARE, do_pad=True),
    "transformers DETR": lambda: t.DetrImageProcessor(size=SIDES),
    "transformers Conditional DETR": lambda: t.ConditionalDetrImageProcessor(size=SIDES),
    "transformers RF-DETR": lambda: t.RfDetrImageProcessor(size={"height": 64, "width": 64}),
}
"""Processors that resize, pad and stretch images of 48 x 80."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    """Three images of 48 x 80 with boxes of three classes; the last has none."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    boxes = [[(0, 4, 5, 30, 20), (2, 40, 10, 35, 33)], [(1, 10, 2, 60, 44), (1, 3, 3, 9, 9)], []]
    annotations = []
    for number, some in enumerate(boxes):
        pixels = generator.integers(0, 255, (6, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 48)).save(root / f"{number}.png")
        for label, x, y, width, height in some:
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "segmentation": [corners],
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    images = [{"id": n, "file_name": f"{n}.png", "height": 48, "width": 80} for n in range(3)]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    return load_dataset(str(root / "boxes.json"), root=root)


def processor_of(family: str, model: Any) -> Any:
    images = PROCESSORS[family]()
    if family != "transformers OneFormer":
        return images
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = t.CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[])
    return t.OneFormerProcessor(images, tokenizer, task_seq_length=model.config.task_seq_len)


@torch.no_grad()
def balance(model: Any, inputs: dict[str, Tensor]) -> None:
    """Shift DETR's mask logits so that half of them are positive and none is close to 0."""
    if type(model).__name__.endswith("DetrForSegmentation"):
        values = model(**inputs).pred_masks.flatten().sort().values
        middle = values[len(values) // 4 : -len(values) // 4]
        gap = middle.diff().argmax()
        model.mask_head.output_conv.bias -= (middle[gap] + middle[gap + 1]) / 2


@torch.no_grad()
def layers_of(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return (L + 1, N, K + 1) and (L + 1, N, h, w); the last layer is the model's output."""
    with record(model, only=["class_logits", "mask_logits"]) as recording:
        output = model(**inputs)
    masks = output["pred_masks" if "pred_masks" in output else "masks_queries_logits"]
    assert torch.equal(recording.mask_logits[-1], masks)
    return recording.class_logits[:, 0], recording.mask_logits[:, 0]


def preprocess(processor: Any, pixels: Any) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Return the model's inputs, and (height, width) of the image without padding."""
    more = {"task_inputs": ["instance"]} if isinstance(processor, t.OneFormerProcessor) else {}
    found = dict(processor(images=[pixels], return_tensors="pt", **more))
    found.pop("patch_offsets", None)
    height, width = found["pixel_values"].shape[-2:]
    images = getattr(processor, "image_processor", processor)
    if isinstance(images, t.EomtImageProcessor):  # 48 x 80 in a square of 64
        return found, (38, 64)
    if "pixel_mask" in found:
        assert found["pixel_mask"].all()
    return found, (height, width)


def interpolate_gt(
    masks: Tensor, size: tuple[int, int], padded: tuple[int, int], grid: Any
) -> Tensor:
    """Interpolate GT masks to the centres of the cells of the mask grid."""
    if not len(masks):
        return torch.zeros(0, *grid)
    resized = F.interpolate(masks[None].float(), size, mode="nearest-exact")
    filled = F.pad(resized, (0, padded[1] - size[1], 0, padded[0] - size[0]))
    return F.interpolate(filled, tuple(grid), mode="bilinear", align_corners=False)[0]


def cost_table(classes: Tensor, logits: Tensor, labels: Tensor, gt: Tensor) -> Any:
    """Compute (N, G) by the formulas of Mask2Former's matcher, pair by pair."""
    probability, table = classes.softmax(-1), np.zeros((len(logits), len(gt)))
    for n, mask in enumerate(logits.double()):
        inside = mask.sigmoid()
        for g, other in enumerate(gt.double()):
            entropy = F.binary_cross_entropy_with_logits(mask, other)
            dice = 1 - (2 * (inside * other).sum() + 1) / (inside.sum() + other.sum() + 1)
            table[n, g] = -2 * probability[n, labels[g]] + 5 * entropy + 5 * dice
    return table


def overlap(first: Tensor, second: Tensor) -> float | None:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else None


@pytest.mark.parametrize("family", list(PROCESSORS), indirect=True)
def test_rows_agree_with_the_outputs_of_the_library(
    tiny: Any, family: str, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    model = tiny.model
    model.config.id2label = dict(enumerate(ORDER))
    model.config.label2id = {name: n for n, name in enumerate(ORDER)}
    processor = processor_of(family, model)
    balance(model, preprocess(processor, dataset.image(0))[0])
    for saved in (model, processor):
        saved.save_pretrained(tmp_path / "model")
    mpdiag.analyze(
        tmp_path / "model",
        dataset,
        tmp_path / "run",
        engine="transformers",
        match_points="all",
        save_masks="all",
        save_attention=family != "transformers RF-DETR",
    )
    run = Run.open(tmp_path / "run")
    if family != "transformers RF-DETR":
        check_attention(run, family, model, processor, dataset)
    order = [ORDER.index(name) for name in NAMES]
    kinds = set()
    for index, image_id in enumerate(dataset.image_ids):
        inputs, size = preprocess(
            processor, Image.open(dataset.image_root / dataset.file_name(index))
        )
        padded = tuple(inputs["pixel_values"].shape[-2:])
        classes, logits = layers_of(model, inputs)
        classes = classes[..., [*order, len(order)]]
        sample = dataset[index]
        soft = interpolate_gt(sample.masks, size, padded, logits.shape[-2:])
        height, width = (
            int(np.ceil(size[axis] * logits.shape[axis - 2] / padded[axis])) for axis in (0, 1)
        )
        masks, gt = (logits > 0)[..., :height, :width], (soft >= 0.5)[..., :height, :width]
        found = run.query("SELECT * FROM queries WHERE image_id = ?", [image_id])
        assert len(found) == len(logits) * logits.shape[1]
        for layer in range(len(logits)):
            rows = found[found["layer"] == layer]
            check_matches(rows, classes[layer], logits[layer], sample.labels, soft)
        for row in found.itertuples():
            mask = masks[row.layer, row.query]
            assert row.area == mask.sum()
            kinds.add(row.area)
            if row.layer:
                before = overlap(masks[row.layer - 1, row.query], mask)
                assert row.iou_prev == before or (before is None and np.isnan(row.iou_prev))
            ious = [overlap(mask, one) or 0.0 for one in gt]
            assert row.best_gt_iou == max(ious, default=0)
            if row.matched_gt >= 0:
                assert row.matched_gt_iou == ious[row.matched_gt]
            score, label = classes[row.layer, row.query].softmax(-1)[:-1].max(0)
            assert row.label == label and row.score == pytest.approx(score.item(), rel=1e-5)
        with Image.open(run.image(image_id)) as picture:  # not stretched like the model's input
            assert picture.width / picture.height == pytest.approx(80 / 48, rel=0.02)
        for query in range(logits.shape[1]):
            assert np.array_equal(run.masks(image_id, query), masks[:, query].numpy())
    assert len(kinds) > 5  # masks of many sizes, not all empty or full


def check_matches(rows: Any, classes: Tensor, logits: Tensor, labels: Tensor, gt: Tensor) -> None:
    """Check that the assignment has the lowest cost; ties are allowed."""
    matched = rows.sort_values("query")["matched_gt"].to_numpy()
    assert sorted(matched[matched >= 0]) == list(range(len(gt)))
    if not len(gt):
        return
    table = cost_table(classes, logits, labels, gt)
    best = table[linear_sum_assignment(table)].sum()
    queries = np.flatnonzero(matched >= 0)
    assert table[queries, matched[queries]].sum() == pytest.approx(best, rel=1e-5)


def check_attention(
    run: Run, family: str, model: Any, processor: Any, dataset: SegmentationDataset
) -> None:
    """Compare the saved attention of the first image with that of the model."""
    inputs, size = preprocess(processor, Image.open(dataset.image_root / dataset.file_name(0)))
    with torch.no_grad(), record(model, only=["*logits", "*attention*"]) as recording:
        model(**inputs)
    masked = "attention_mask" in recording
    assert masked == (family not in ("transformers MaskFormer", "transformers DETR",
                                     "transformers Conditional DETR"))  # fmt: skip
    padded = inputs["pixel_values"].shape[-2:]
    for query in range(recording.mask_logits.shape[2]):
        for number, layer in enumerate(run.attention(dataset.image_ids[0], query)):
            weights = recording.attention(number + 1, query).mean(0)
            assert layer.weights.shape == weights.shape
            bound = weights.max().item() * (0.5 / 255 + 1e-4)
            assert np.abs(layer.weights - weights.numpy()).max() <= bound
            covered = [
                side * own / whole
                for side, own, whole in zip(weights.shape, size, padded, strict=True)
            ]
            assert layer.image == pytest.approx(covered)
            if masked:
                seen = recording.layers("attention_mask")[number][0, query]
                assert np.array_equal(layer.mask, seen.view(weights.shape).numpy())
            else:
                assert layer.mask is None


@pytest.mark.parametrize("family", ["transformers EoMT"], indirect=True)
def test_processors_that_split_images_are_rejected(
    tiny: Any, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    tiny.model.config.id2label = dict(enumerate(ORDER))
    processor = t.EomtImageProcessor(size={"shortest_edge": 64}, do_split_image=True)
    with pytest.raises(CheckpointError, match="images into windows"):
        mpdiag.analyze(tiny.model, dataset, tmp_path / "run", processor=processor)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["transformers OneFormer"], indirect=True)
def test_oneformer_needs_its_tokenizer(
    tiny: Any, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    tiny.model.config.id2label = dict(enumerate(ORDER))
    processor = t.OneFormerImageProcessor(size=SIDES)
    with pytest.raises(CheckpointError, match="OneFormerProcessor"):
        mpdiag.analyze(tiny.model, dataset, tmp_path / "run", processor=processor)


@pytest.mark.parametrize(
    "family", ["transformers MaskFormer", "transformers RF-DETR"], indirect=True
)
def test_classes_that_the_data_set_does_not_have(
    tiny: Any, family: str, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    """They count as no-object, except where each class has its own sigmoid."""
    model = tiny.model
    processor = processor_of(family, model)
    model.config.id2label = {1: "square", 2: "sky", 3: "disc"}
    with pytest.raises(CheckpointError, match="id2label must have the keys 0 to 2"):
        mpdiag.analyze(model, dataset, tmp_path / "run", processor=processor, limit=1)
    model.config.id2label = {0: "square", 1: "sky", 2: "disc"}
    source = json.loads((dataset.annotations.path).read_text())
    source["categories"] = [one for one in source["categories"] if one["name"] != "star"]
    source["annotations"] = [one for one in source["annotations"] if one["category_id"] != 2]
    path = tmp_path / "two.json"
    path.write_text(json.dumps(source))
    two = load_dataset(str(path), root=dataset.image_root)
    mpdiag.analyze(model, two, tmp_path / "run", processor=processor, limit=1)
    rows = Run.open(tmp_path / "run").query("SELECT * FROM queries ORDER BY layer, query")
    logits, _ = layers_of(model, preprocess(processor, dataset.image(0))[0])
    if tiny.no_object:
        probability = logits.softmax(-1)[..., [2, 0]]
    else:
        probability = logits[..., [2, 0, 3]].softmax(-1)[..., :2]
    score, label = probability.flatten(0, 1).max(-1)
    assert rows["label"].tolist() == label.tolist()
    assert rows["score"].tolist() == pytest.approx(score.tolist(), rel=1e-5)


@pytest.mark.parametrize("family", ["transformers RF-DETR"], indirect=True)
def test_attention_that_the_family_does_not_have(
    tiny: Any, family: str, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    tiny.model.config.id2label = dict(enumerate(ORDER))
    keep = {"processor": processor_of(family, tiny.model), "save_attention": True}
    with pytest.raises(ConfigError, match=f"cross_attention: {family} does not have it"):
        mpdiag.analyze(tiny.model, dataset, tmp_path / "run", save_masks="all", **keep)
    assert not (tmp_path / "run").exists()
