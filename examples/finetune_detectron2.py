"""Train the official Mask2Former with detectron2 on a COCO file, and log its decoder layers.

PYTHONPATH=Mask2Former python examples/finetune_detectron2.py \
    Mask2Former/configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml \
    --train train.json images/train --val val.json images/val --output OUTPUT --opts KEY VALUE ...

Needs detectron2 and the official Mask2Former (docs/detectron2.md). OUTPUT gets detectron2's logs
and checkpoints, and a run directory for `mpdiag report`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    transforms,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.projects.deeplab import add_deeplab_config
from mask2former import COCOInstanceNewBaselineDatasetMapper, add_maskformer2_config

from mpdiag.integrations.detectron2 import LayerDiagnosticsHook


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        mapper = COCOInstanceNewBaselineDatasetMapper(cfg, True)
        return build_detection_train_loader(cfg, mapper=mapper)

    @classmethod
    def build_optimizer(cls, cfg: Any, model: torch.nn.Module) -> torch.optim.Optimizer:
        parameters, solver = list(model.parameters()), cfg.SOLVER
        optimizer = torch.optim.AdamW(parameters, solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
        clip = solver.CLIP_GRADIENTS.CLIP_VALUE

        def clip_gradients(*_: Any) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)

        optimizer.register_step_pre_hook(clip_gradients)
        return optimizer

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> None:
        """Leave the evaluation to `mpdiag analyze`."""


def held_out(cfg: Any, name: str, batches: int) -> list[Any]:
    """Return batches with GT, which the test loaders of detectron2 lack, resized as in a test."""
    entries = get_detection_dataset_dicts([name], filter_empty=False)
    resize = transforms.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    mapper = DatasetMapper(
        is_train=True,  # keeps the GT
        augmentations=[resize],
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    size = cfg.SOLVER.IMS_PER_BATCH
    starts = range(0, min(len(entries), batches * size), size)
    return [[mapper(entry) for entry in entries[start : start + size]] for start in starts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path)
    parser.add_argument("--train", nargs=2, metavar=("JSON", "IMAGES"), required=True)
    parser.add_argument("--val", nargs=2, metavar=("JSON", "IMAGES"), required=True)
    parser.add_argument("--output", type=Path, default=Path("finetuned"))
    parser.add_argument("--every", type=int, default=50, help="steps between two measurements")
    parser.add_argument("--batches", type=int, default=10, help="held-out batches to measure")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE")
    args = parser.parse_args()

    for name in ("train", "val"):
        register_coco_instances(f"mine_{name}", {}, *getattr(args, name))
    classes = {
        annotation["category_id"]
        for entry in DatasetCatalog.get("mine_train")
        for annotation in entry["annotations"]
    }
    cfg = get_cfg()
    add_deeplab_config(cfg)
    add_maskformer2_config(cfg)
    cfg.merge_from_file(str(args.config))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("mine_train",), ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = max(classes) + 1
    cfg.OUTPUT_DIR = str(args.output)
    cfg.merge_from_list(args.opts)
    args.output.mkdir(parents=True, exist_ok=True)

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    hook = LayerDiagnosticsHook(
        every=args.every,
        held_out=held_out(cfg, "mine_val", args.batches),
        eval_period=10 * args.every,
        run=args.output / "run",
    )
    trainer.register_hooks([hook])
    trainer.train()


if __name__ == "__main__":
    main()
