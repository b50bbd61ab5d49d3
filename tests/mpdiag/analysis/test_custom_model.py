"""Analyses of models that are given with their preprocessing."""

import copy
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from torch import Tensor, nn

import mpdiag
from mpdiag import CustomModel
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import SegmentationDataset
from mpdiag.errors import ConfigError, MpdiagError
from mpdiag.recording import HookPoint
from mpdiag.store import Run

EXAMPLES = Path(__file__).parents[3] / "examples"


class Wrapper(nn.Module):
    """Calls a Mask2Former with a tensor in place of a list."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(list(images))


def identity(image: Tensor) -> Tensor:
    return image


def same_tables(first: Path, second: Path, *names: str) -> None:
    for name in names:
        files = sorted((first / name).glob("*.parquet"))
        assert files
        for file in files:
            assert file.read_bytes() == (second / name / file.name).read_bytes(), file


def test_a_wrapped_model_gives_the_run_of_its_checkpoint(
    loaded: LoadedCheckpoint, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    expected = mpdiag.analyze(loaded, dataset, tmp_path / "a", evaluate=True)
    module = Wrapper(copy.deepcopy(loaded.model)).train()
    names = [info.name for info in dataset.classes]
    # Another order of the classes, which their names show.
    head = module.model.decoder.class_embed
    order = [*range(1, len(names)), 0]
    with torch.no_grad():
        head.weight.copy_(head.weight[[*order, len(names)]])
        head.bias.copy_(head.bias[[*order, len(names)]])
    model = CustomModel(module, identity, [names[index] for index in order])
    found = mpdiag.analyze(model, dataset, tmp_path / "b", evaluate=True)
    assert module.training
    assert found["ap"] == expected["ap"]
    same_tables(tmp_path / "a", tmp_path / "b", "queries", "targets", "detections")
    darker = CustomModel(module, lambda image: image // 2, model.classes)
    with pytest.raises(MpdiagError, match="contains another run"):
        mpdiag.analyze(darker, dataset, tmp_path / "b", evaluate=True, resume=True)
    with pytest.raises(MpdiagError, match="is already finished"):  # so it is the same run
        mpdiag.analyze(model, dataset, tmp_path / "b", evaluate=True, resume=True)
    header = Run.open(tmp_path / "b").header
    assert header["checkpoint"]["path"] == "Wrapper"
    assert header["architecture"]["module"] == "Mask2Former"


def test_interventions_and_diagnosis_of_a_wrapped_model(
    loaded: LoadedCheckpoint, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"intervene": ("attention=gt:1-2",), "limit": 2, "evaluate": True}
    mpdiag.analyze(loaded, dataset, tmp_path / "a", **options)
    model = CustomModel(Wrapper(loaded.model), identity)
    mpdiag.analyze(model, dataset, tmp_path / "b", **options)
    same_tables(tmp_path / "a", tmp_path / "b", "queries", "targets", "detections")
    diagnosis = mpdiag.diagnose(model, dataset, limit=1)
    assert len(diagnosis.layers) == Run.open(tmp_path / "b").num_layers + 1


def test_hook_points_with_sigmoids_are_scored_class_by_class(
    dataset: SegmentationDataset, tmp_path: Path
) -> None:
    queries, classes = 6, len(dataset.classes)
    logits = torch.randn(queries, classes, generator=torch.Generator().manual_seed(0))

    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.masks = nn.Conv2d(3, queries, 4, 4)
            self.class_logits, self.mask_logits = HookPoint(sigmoid=True), HookPoint()

        def forward(self, images: Tensor) -> None:
            for _ in range(2):
                self.class_logits(logits.expand(len(images), -1, -1))
                self.mask_logits(self.masks(images.float()))

    mpdiag.analyze(CustomModel(Segmenter(), identity), dataset, tmp_path / "run", evaluate=True)
    run = Run.open(tmp_path / "run")
    assert run.header["settings"]["inference"] == "sigmoid"
    found = run.query(
        "SELECT score FROM detections WHERE image_id = ? ORDER BY score DESC",
        [dataset.image_ids[0]],
    )
    # Each class of a query is a detection of its own, as in Conditional DETR and RF-DETR.
    expected = 1 / (1 + np.exp(-np.sort(logits.numpy().ravel())[::-1]))
    np.testing.assert_allclose(found["score"], expected, rtol=1e-3)


def test_rfdetr_gives_the_instances_of_its_own_predict(
    dataset: SegmentationDataset, tmp_path: Path
) -> None:
    names = [info.name for info in dataset.classes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it starts from random weights
        rfdetr = pytest.importorskip("rfdetr")
        torch.manual_seed(0)
        detector = rfdetr.RFDETRSegNano(
            pretrain_weights=None,
            num_classes=len(names),
            dec_layers=2,
            num_queries=7,
            num_select=7 * (len(names) + 1),
            hidden_dim=32,
            sa_nheads=2,
            ca_nheads=2,
            resolution=48,
            positional_encoding_size=4,
            device="cpu",
        )
    detector.model.class_names = names
    with torch.no_grad():  # scores that differ
        detector.model.model.class_embed.weight.normal_()
    example = runpy.run_path(str(EXAMPLES / "analyse_rfdetr.py"))
    model = example["custom_model"](detector)
    assert model.classes == [*names, "unused"]
    mpdiag.analyze(model, dataset, tmp_path / "run", limit=3, evaluate=True)
    run = Run.open(tmp_path / "run")
    assert run.num_layers == 2
    found = run.query("SELECT * FROM detections ORDER BY image_id, score DESC")
    assert len(found) == 3 * 7 * len(names)
    for index in range(3):
        sample = dataset[index]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its optional dependencies
            own = detector.predict(sample.image.float() / 255, threshold=0.0)
        own = own[own.class_id < len(names)]
        own = own[np.argsort(-own.confidence)]
        rows = found[found.image_id == sample.image_id]
        # Rounding differs, because mpdiag runs the three images at once.
        np.testing.assert_allclose(rows.score, own.confidence, rtol=1e-4)
        assert rows.label.tolist() == own.class_id.tolist()
        rles = [
            {"size": [row.height, row.width], "counts": bytes(row.counts)}
            for row in rows.itertuples()
        ]
        masks = pycocotools.mask.decode(rles).transpose(2, 0, 1)
        assert own.mask.any() and np.mean(masks != own.mask) < 1e-3


def test_padding_is_that_of_the_preprocessing(dataset: SegmentationDataset, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=96,
        patch_size=16,
        num_blocks=2,
        num_queries=4,
        num_register_tokens=1,
        num_labels=len(dataset.classes),
    )
    module = transformers.EomtForUniversalSegmentation(config)
    # Images of 64 x 64 are enlarged to 80 x 80 and padded to 96 x 96.
    processor = transformers.Mask2FormerImageProcessor(
        size={"height": 80, "width": 80}, size_divisor=16, pad_size={"height": 96, "width": 96}
    )

    def preprocess(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"][0]
        assert pixels.shape == (3, 96, 96)
        return pixels, (80, 80)

    mpdiag.analyze(module, dataset, tmp_path / "a", processor=processor, evaluate=True)
    mpdiag.analyze(CustomModel(module, preprocess), dataset, tmp_path / "b", evaluate=True)
    same_tables(tmp_path / "a", tmp_path / "b", "queries", "targets", "images")


@pytest.mark.parametrize(
    ("preprocess", "classes", "message"),
    [
        (lambda image: image[None], None, r"preprocess returns \(1, 3, 480, 640\); return a"),
        (lambda image: [image], None, "preprocess returns list; return a tensor"),
        (
            lambda image: (image, (481, 640)),
            None,
            r"preprocess returns the size \(481, 640\) without padding",
        ),
        (identity, ["square"], r"classes has 1 names, but the model predicts \d classes; give"),
    ],
)
def test_errors_name_the_argument(
    loaded: LoadedCheckpoint,
    dataset: SegmentationDataset,
    tmp_path: Path,
    preprocess: Any,
    classes: list[str] | None,
    message: str,
) -> None:
    model = CustomModel(Wrapper(loaded.model), preprocess, classes)
    with pytest.raises(MpdiagError, match=f"^Wrapper: {message}"):
        mpdiag.analyze(model, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_preprocess_that_cannot_be_called_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Identity: preprocess is NoneType; give a function from"):
        CustomModel(torch.nn.Identity(), None)
