"""A new transformers family needs one declaration: it is loaded, recorded, matched and scored."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import mpdiag
from mpdiag.data import generate_synthetic, load_dataset
from mpdiag.recording import (
    HookSpec,
    HookSpecs,
    TransformersFamily,
    first_output,
    known_families,
    record,
    register,
)
from mpdiag.store import Run

t = pytest.importorskip("transformers")

NUM_CLASSES, QUERIES, DIM = 7, 5, 8


class ToyConfig(t.PretrainedConfig):  # type: ignore[name-defined, misc]
    model_type = "toy"


class ToyForSegmentation(t.PreTrainedModel):  # type: ignore[name-defined, misc]
    """Two layers, classes by sigmoids."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.pixels = nn.Conv2d(3, DIM, 4, stride=4)
        self.queries = nn.Parameter(torch.zeros(QUERIES, DIM))
        self.layer = nn.Linear(DIM, DIM)
        self.classify, self.embed = nn.Linear(DIM, NUM_CLASSES), nn.Linear(DIM, DIM)
        self.masks = nn.Identity()
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Any:
        pixels, queries = self.pixels(pixel_values), self.queries.expand(len(pixel_values), -1, -1)
        for _ in range(2):
            classes = self.classify(queries)
            masks = self.masks(torch.einsum("bnc,bchw->bnhw", self.embed(queries), pixels))
            queries = self.layer(queries)
        return classes, masks


ToyForSegmentation.__module__ = "transformers.models.toy"


class ToyFamily(TransformersFamily):
    name = "toy"
    notes = ("the model is a test",)
    model_classes: ClassVar = {"toy": "ToyForSegmentation"}
    instance_rule = "sigmoid"
    loss_keys: ClassVar = {"cls_cost": "class_weight", "bce_cost": "mask_weight"}

    def hooks(self, model: Any) -> HookSpecs:
        def with_no_object(call: Any) -> Tensor:
            return nn.functional.pad(call.output, (0, 1))

        return {
            "class_logits": HookSpec([model.classify], 2, with_no_object),
            "mask_logits": HookSpec([model.masks], 2, first_output),
        }


def test_one_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpdiag.recording.family._FAMILIES", known_families())
    register(ToyFamily())
    t.AutoConfig.register("toy", ToyConfig, exist_ok=True)
    generate_synthetic(tmp_path / "data" / "synthetic", train=1, val=2, size=64)
    data = load_dataset("synthetic", root=tmp_path / "data")
    torch.manual_seed(0)
    names = {number: info.name for number, info in enumerate(data.classes)}
    config = ToyConfig(
        id2label=names,
        label2id={name: number for number, name in names.items()},
        cls_cost=1.5,
        bce_cost=7.0,
    )
    model = ToyForSegmentation(config).eval()
    nn.init.normal_(model.queries, std=5.0)
    processor = t.Mask2FormerImageProcessor(size={"height": 64, "width": 64}, size_divisor=0)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "toy")

    # The library replaces its own entry in sys.modules while it loads.
    monkeypatch.setattr("transformers.ToyForSegmentation", ToyForSegmentation, raising=False)
    mpdiag.analyze(tmp_path / "toy", data, tmp_path / "run")

    run = Run.open(tmp_path / "run")
    settings, architecture = run.header["settings"], run.header["architecture"]
    assert (architecture["family"], architecture["notes"]) == ("toy", ["the model is a test"])
    costs = [settings[key] for key in ("class_cost", "mask_cost", "dice_cost", "inference")]
    assert costs == [1.5, 7.0, 5.0, "sigmoid"]  # the config has no dice cost
    assert run.query("SELECT max(matched_gt) AS gt FROM queries")["gt"][0] >= 0
    inputs = processor(images=[data.image(0)], return_tensors="pt")
    with torch.no_grad(), record(model) as recording:
        model(inputs["pixel_values"])
    assert recording.family == "toy" and recording.mask_logits.shape == (2, 1, QUERIES, 16, 16)
    best = recording.class_logits[-1, 0, :, :-1].sigmoid().flatten().topk(QUERIES).values
    scores = run.query("SELECT score FROM detections WHERE image_id = ?", [data.image_ids[0]])
    for score in best.tolist():  # a query may have several detections
        assert min(abs(scores["score"] - score)) < 1e-5
