"""Training and evaluation by detectron2's own trainer: the body of `--engine detectron2`."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2 import evaluation
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import DefaultTrainer, default_setup, launch
from detectron2.projects.deeplab import build_lr_scheduler
from torch import nn

from mpdiag.errors import DataError
from trainers.detectron2.config import read_cfg, recipe_of
from trainers.detectron2.mapper import TrainingMapper
from trainers.optimizer import parameter_groups

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machines:
    """Where a training runs, as detectron2's `launch` takes it."""

    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"


class Trainer(DefaultTrainer):
    """detectron2's trainer, loaders, schedulers, checkpointer and evaluators; our mapper.

    The optimizer has Mask2Former's groups of parameters and clips the gradient of the whole model.
    """

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        # Some metadata is there only once the entries are.
        entries = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        mapper = TrainingMapper(cfg.DATASETS.TRAIN[0], recipe_of(cfg).data)
        return build_detection_train_loader(cfg, mapper=mapper, dataset=entries)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        settings = recipe_of(cfg).optimizer
        optimizer = torch.optim.AdamW(parameter_groups(model, settings))

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)

        # Not fused: a scaled loss's gradients are then scaled back before the step.
        optimizer.register_step_pre_hook(clip)
        return optimizer

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: Any = None) -> Any:
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        found = list(_evaluators(kind, cfg.MODEL.MASK_FORMER.TEST, dataset_name, folder))
        if not found:
            raise DataError(
                f"{dataset_name}: its evaluator_type {kind} with what MODEL.MASK_FORMER.TEST turns "
                "on has no evaluator in detectron2; turn on what it is annotated with"
            )
        return evaluation.DatasetEvaluators(found) if len(found) > 1 else found[0]


def _evaluators(kind: str | None, test: CfgNode, name: str, folder: str) -> Iterator[Any]:
    """Those that `train_net.py` of Mask2Former takes, as far as they are detectron2's."""
    panoptic = kind is not None and kind.endswith("panoptic_seg")
    if panoptic and test.PANOPTIC_ON:
        yield evaluation.COCOPanopticEvaluator(name, folder)
    if kind == "coco" or (kind == "coco_panoptic_seg" and test.INSTANCE_ON):
        yield evaluation.COCOEvaluator(name, output_dir=folder)
    if kind == "lvis":
        yield evaluation.LVISEvaluator(name, output_dir=folder)
    cityscapes = kind == "cityscapes_panoptic_seg"
    if kind == "cityscapes_instance" or (cityscapes and test.INSTANCE_ON):
        yield evaluation.CityscapesInstanceEvaluator(name)
    if kind == "cityscapes_sem_seg" or (cityscapes and test.SEMANTIC_ON):
        yield evaluation.CityscapesSemSegEvaluator(name)
    if kind == "sem_seg" or (panoptic and not cityscapes and test.SEMANTIC_ON):
        yield evaluation.SemSegEvaluator(name, distributed=True, output_dir=folder)


def run(
    file: Path,
    words: Sequence[str] = (),
    *,
    output: Path | None = None,
    resume: bool = False,
    eval_only: bool = False,
    machines: Machines = Machines(),
) -> Path:
    """Train, or evaluate `MODEL.WEIGHTS`, as a configuration says, and return its OUTPUT_DIR.

    Args:
        file: a detectron2 YAML.
        words: KEY VALUE pairs and settings of ours.
        output: in place of OUTPUT_DIR.
        resume: go on from the last checkpoint there.
        eval_only: no training.
        machines: processes to start.

    Raises:
        ConfigError, DataError: the configuration or its data is wrong; before anything is built.
    """
    words = [*words, *(["OUTPUT_DIR", str(output)] if output else [])]
    cfg = read_cfg(file, words)
    _check_registered(cfg)
    launch(
        _in_process,
        machines.num_gpus,
        machines.num_machines,
        machines.machine_rank,
        machines.dist_url,
        args=(file, words, resume, eval_only),
    )
    return Path(cfg.OUTPUT_DIR)


@dataclass(frozen=True, slots=True)
class _Arguments:
    """What detectron2's setup looks at and logs."""

    config_file: str
    opts: Sequence[str]
    resume: bool
    eval_only: bool


def _in_process(file: Path, words: Sequence[str], resume: bool, eval_only: bool) -> Any:
    """One of the processes; each reads the configuration anew, which registers what it needs."""
    cfg = read_cfg(file, words)
    default_setup(cfg, _Arguments(str(file), words, resume, eval_only))
    if eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=resume
        )
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def _check_registered(cfg: CfgNode) -> None:
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in DatasetCatalog:
            raise DataError(
                f"{name}: not registered in detectron2's catalogs; name the module that registers "
                "it in MPDIAG.IMPORTS, as \"('mask2former',)\""
            )
    if not cfg.DATASETS.TRAIN:
        raise DataError("DATASETS.TRAIN names no data set; give one")
