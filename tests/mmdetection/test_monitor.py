"""examples/monitor_mmdetection.py in a training of mmdetection; needs mmdet and mmcv."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mpdiag

pytest.importorskip("mmdet")

from .make_reference import CASES_OF, CLASSES, CONFIGS, build

EXAMPLE = Path(__file__).parents[2] / "examples" / "monitor_mmdetection.py"
SIZE, IMAGE = (64, 96), (64, 80)
"""Of the padded batch and of the image."""


def build_model() -> Any:
    config, backbone, channels = CASES_OF["r50"]
    return build(CONFIGS / config, backbone, channels)


def masks(image: int) -> torch.Tensor:
    found = torch.zeros(2, *SIZE, dtype=torch.bool)
    found[0, 8:40, 8 * image : 32 + 8 * image] = True
    found[1, 20:60, 48:76] = True
    return found


def sample(image: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    made = DetDataSample(metainfo={"img_shape": IMAGE, "batch_input_shape": SIZE, "img_id": image})
    bitmaps = BitmapMasks(masks(image).numpy().astype(np.uint8), *SIZE)
    made.gt_instances = InstanceData(labels=torch.tensor([image, CLASSES - 1]), masks=bitmaps)
    return made


def test_the_gt_are_those_of_the_data_samples() -> None:
    model = build_model().train()
    images, targets = torch.randn(2, 3, *SIZE), []
    for image in range(2):
        inside = masks(image)[:, : IMAGE[0], : IMAGE[1]]
        targets.append({"labels": torch.tensor([image, CLASSES - 1]), "masks": inside})
    found = []
    for given in (None, targets):
        with mpdiag.LayerMonitor(model, every=1) as monitor:
            losses = model(images, [sample(0), sample(1)], mode="loss")
            assert "loss_mask" in losses
            found.append(monitor.step(given))
    assert found[0] == found[1] and {"util/0", "miou_l/4", "loss_dice/4"} <= found[0].keys()


class Batches(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(index))
        return {"inputs": image.to(torch.uint8), "data_samples": sample(index)}


def test_the_hook_logs_in_a_training(tmp_path: Path) -> None:
    from mmengine.runner import Runner

    runner = Runner(
        model=build_model(),
        work_dir=str(tmp_path),
        train_dataloader={
            "dataset": Batches(),
            "batch_size": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
        },
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": 3},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 1e-4}},
        default_scope="mmdet",
        experiment_name="monitor",
    )
    hook = runpy.run_path(str(EXAMPLE))["LayerDiagnosticsHook"](every=2)
    runner.register_hook(hook)
    runner.train()
    scalars = runner.message_hub.log_scalars
    values, _ = scalars["train/util/0"].data
    assert len(values) == 1 and 0 <= values[0] <= 1
    assert {"train/miou_l/1", "train/loss_mask/4", "train/dead_queries"} <= scalars.keys()
