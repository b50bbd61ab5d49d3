"""Steps that fail are reported, dumped and repeated; unusual images do not fail."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console

from mpdiag.data import load_dataset
from mpdiag.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteError,
    OutputError,
    TrainingError,
)
from mpdiag.models import Mask2Former
from trainers.distributed import DistributedContext
from trainers.failed_step import main, replay
from trainers.loop import train
from trainers.methods import build_method
from trainers.signals import StoppedBySignalError
from trainers.trainer import Trainer, non_finite_error

QUIET = Console(quiet=True)


def poisoned(small_recipe, folder: Path, entry: str, *changes: str) -> Any:
    """Return a recipe that starts from a model with one NaN entry."""
    config = small_recipe("schedule.iterations=2", *changes)
    settings = config.model.model_copy(update={"num_classes": 7, "label_embedding": True})
    model = Mask2Former(settings)
    model.state_dict()[entry].fill_(torch.nan)
    torch.save({"model": model.state_dict()}, folder / "poisoned.pth")
    return small_recipe(
        "schedule.iterations=2",
        *changes,
        f"init={folder / 'poisoned.pth'}",
        "model.label_embedding=true",
    )


@pytest.mark.parametrize(
    "entry, changes, message",
    [
        (
            "decoder.mask_embed.layers.2.bias",
            ["method=piloted"],
            r"step 0: mask cost of matching of layer 0 is not finite on image \d+;",
        ),
        (
            "decoder.class_embed.bias",
            ["gradient_accumulation_steps=2"],
            r"step 0: class cost of matching of layer 0 is not finite on image \d+;",
        ),
        (
            "pixel_decoder.mask_features.bias",
            ["method=per-pixel"],
            r"step 0: loss_class_4, loss_offset_4 is not finite on images",
        ),
    ],
)
def test_failed_step_is_reported_and_repeated(
    small_recipe, tmp_path: Path, entry: str, changes: list[str], message: str
) -> None:
    config = poisoned(small_recipe, tmp_path, entry, *changes)
    output = tmp_path / "run"
    with pytest.raises(TrainingError, match=message) as caught:
        train(config, output, console=QUIET)
    assert "\n" not in str(caught.value)
    dump = output / "failed-step-0-rank-0.pth"
    assert str(dump) in str(caught.value)
    kept = torch.load(dump, weights_only=True)
    assert len(kept["failed_step"]["samples"]) == 4
    with pytest.raises(NonFiniteError) as again:
        replay(dump)
    assert str(again.value) == kept["failed_step"]["message"]


def test_non_finite_losses_are_reported_by_their_first_layer(small_recipe) -> None:
    config = small_recipe("model.decoder_layers=9", "method=piloted")
    method = build_method(Mask2Former(config.model), config)
    names = ["loss_ce", "loss_dice_3", "loss_mask_dn_3", "loss_mask_4", "loss_mask_2"]
    losses = {name: torch.tensor(float("nan")) for name in names[:-1]}
    error = non_finite_error(losses | {"loss_mask_2": torch.tensor(1.0)}, method)
    assert (error.term, error.layer) == ("loss_dice, loss_mask_dn", 3)
    error = non_finite_error({"loss_ce": torch.tensor(float("inf"))}, method)
    assert (error.term, error.layer) == ("loss_ce", 9)


def test_a_dump_is_replayed_from_the_command_line(
    small_recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = poisoned(small_recipe, tmp_path, "decoder.class_embed.bias")
    with pytest.raises(TrainingError):
        train(config, tmp_path / "run", console=QUIET)
    dump = tmp_path / "run" / "failed-step-0-rank-0.pth"
    monkeypatch.setattr(sys, "argv", ["failed_step", str(dump)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("class cost of matching of layer 0, image 0 of the batch")
    with pytest.raises(CheckpointError, match="not a dump of a failed step"):
        replay(tmp_path / "poisoned.pth")
    content = torch.load(dump, weights_only=True)
    torch.save(content | {"iteration": -1}, dump)
    with pytest.raises(CheckpointError, match="does not match this run's recipe"):
        replay(dump)


def test_non_finite_gradient_leaves_the_weights_unchanged(small_recipe) -> None:
    config = small_recipe("model.num_classes=7")
    dataset = load_dataset("synthetic", root=config.data.root, split="train")
    trainer = Trainer(config, dataset.classes, DistributedContext.initialize())
    before = {name: x.clone() for name, x in trainer.model.named_parameters()}
    weight = trainer.model.pixel_decoder.mask_features.weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError, match="the gradient norm is not finite"):
        trainer.step([dataset[i] for i in range(4)], range(4))
    assert all(torch.equal(before[name], x) for name, x in trainer.model.named_parameters())
    assert trainer.iteration == 0


SIDE = 64


def rle(mask: np.ndarray) -> dict[str, Any]:
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": packed["size"], "counts": packed["counts"].decode("ascii")}


def box(y: int, x: int, height: int, width: int) -> dict[str, Any]:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return rle(mask)


@pytest.fixture
def unusual_images(tmp_path: Path) -> Path:
    """One-pixel objects, only a crowd region, 2,000 objects, and an object at the border."""
    places = [(i // 50, i % 50) for i in range(2000)]
    segmentations = {
        1: [(box(20, 30, 1, 1), 0), (box(63, 63, 1, 1), 0)],
        2: [(box(0, 0, 40, 40), 1)],
        3: [(box(y, x, 2, 2), 0) for y, x in places],
        4: [(box(0, 60, 3, 3), 0)],
        5: [(box(10, 10, 20, 20), 0), (box(0, 0, 30, 30), 1)],
    }
    rng = np.random.default_rng(0)
    annotations = []
    for image_id, entries in segmentations.items():
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{image_id}.jpg")
        for segmentation, crowd in entries:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 10 + len(annotations) % 2,
                    "segmentation": segmentation,
                    "iscrowd": crowd,
                    "area": 1,
                }
            )
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": SIDE, "width": SIDE} for i in segmentations
    ]
    categories = [{"id": 10, "name": "a"}, {"id": 11, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = tmp_path / "unusual.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("method", ["baseline", "piloted", "piloted+fixed-matching"])
def test_unusual_images_do_not_fail(
    small_recipe, unusual_images: Path, tmp_path: Path, method: str
) -> None:
    """Some crops have no GT."""
    config = small_recipe(
        f"data.dataset={unusual_images}",
        f"data.root={unusual_images.parent}",
        "schedule.iterations=6",
        "data.batch_size=2",
        "data.augment.crop=[32, 32]",
        f"method={method}",
        "pilot.assignment=match",
    )
    train(config, tmp_path / "run", console=QUIET)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert len(lines) == 6


def test_a_truncated_image_is_named(small_recipe, unusual_images: Path, tmp_path: Path) -> None:
    whole = (unusual_images.parent / "1.jpg").read_bytes()
    (unusual_images.parent / "1.jpg").write_bytes(whole[: len(whole) // 2])
    config = small_recipe(
        f"data.dataset={unusual_images}",
        f"data.root={unusual_images.parent}",
        "schedule.iterations=6",
    )
    with pytest.raises(DataError, match=r"1\.jpg: image cannot be read"):
        train(config, tmp_path / "run", console=QUIET)


def test_a_file_needs_held_out_images(small_recipe, unusual_images: Path, tmp_path: Path) -> None:
    own = (
        f"data.dataset={unusual_images}",
        f"data.root={unusual_images.parent}",
        "evaluate_every=1",
    )
    with pytest.raises(ConfigError, match=r"set data\.val_dataset=FILE or NAME, or eval"):
        train(small_recipe(*own), tmp_path / "run", console=QUIET)
    content = json.loads(unusual_images.read_text())
    content["categories"][1]["name"] = "c"
    other = unusual_images.with_name("other.json")
    other.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"other\.json: class 1 is c, but b in the training images;"
    ):
        train(small_recipe(*own, f"data.val_dataset={other}"), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()
    settings = (*own, f"data.val_dataset={unusual_images}", "schedule.iterations=1")
    train(small_recipe(*settings), tmp_path / "run", console=QUIET)
    assert '"ap"' in (tmp_path / "run" / "metrics.json").read_text()


def test_held_out_images_have_their_own_root(
    small_recipe, unusual_images: Path, tmp_path: Path
) -> None:
    """The images of both splits have the same names, and those of validation are larger."""
    root = tmp_path / "val"
    root.mkdir()
    content = json.loads(unusual_images.read_text())
    for entry in content["images"]:
        entry["height"] = entry["width"] = SIDE * 2
        Image.new("RGB", (SIDE * 2, SIDE * 2)).save(root / entry["file_name"])
    for entry in content["annotations"]:
        entry["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    (tmp_path / "held_out.json").write_text(json.dumps(content))
    settings = (
        f"data.dataset={unusual_images}", f"data.root={tmp_path}", "evaluate_every=1",
        f"data.val_dataset={tmp_path / 'held_out.json'}", "schedule.iterations=1",
    )  # fmt: skip
    with pytest.raises(DataError, match="the image folder of this split"):
        train(small_recipe(*settings), tmp_path / "other", console=QUIET)
    train(small_recipe(*settings, f"data.val_root={root}"), tmp_path / "run", console=QUIET)
    assert '"ap"' in (tmp_path / "run" / "metrics.json").read_text()


def test_a_name_of_detectron2_needs_held_out_images(
    small_recipe, ade20k_root: Path, tmp_path: Path
) -> None:
    """Otherwise a run would be evaluated on its training images."""
    own = (
        "data.dataset=ade20k_instance_train", f"data.root={ade20k_root}", "evaluate_every=1",
        "schedule.iterations=1",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="ade20k_instance_train: has no held-out images"):
        train(small_recipe(*own), tmp_path / "run", console=QUIET)
    settings = (*own, "data.val_dataset=ade20k_instance_val")
    train(small_recipe(*settings), tmp_path / "run", console=QUIET)
    assert '"ap"' in (tmp_path / "run" / "metrics.json").read_text()


def test_full_disk_keeps_the_last_checkpoint(
    small_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    output = tmp_path / "run"
    save, saved = torch.save, []

    def save_once(content: object, file: Any) -> None:
        (full if saved else save)(content, file)
        saved.append(file)

    monkeypatch.setattr(torch, "save", save_once)
    config = small_recipe("schedule.iterations=4", "checkpoint_every=2")
    with pytest.raises(OutputError, match=r"last\.pth: cannot be written .*; free disk space"):
        train(config, output, console=QUIET)
    monkeypatch.undo()
    assert not list(output.glob("*.tmp"))
    train(config, output, resume=True, console=QUIET)
    assert (output / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("error", "destroyed"),
    [(None, 1), (StoppedBySignalError("stopped", 15), 1), (DataError("x"), 0)],
)
def test_the_process_group_stays_after_an_error_of_one_process(
    small_recipe, tmp_path: Path, monkeypatch, error: Exception | None, destroyed: int
) -> None:
    """NCCL would wait for the processes that have no error, and nobody would see it."""

    def run(*_: object) -> Path:
        if error is not None:
            raise error
        return tmp_path

    calls: list[DistributedContext] = []
    monkeypatch.setattr(DistributedContext, "shutdown", lambda self: calls.append(self))
    monkeypatch.setattr("trainers.loop._train", run)
    with nullcontext() if error is None else pytest.raises(type(error)):
        train(small_recipe(), tmp_path / "run", console=QUIET)
    assert len(calls) == destroyed
