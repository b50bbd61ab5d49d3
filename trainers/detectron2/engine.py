"""Training and evaluation with detectron2's trainer, for `--engine detectron2`."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
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
from mpdiag.store.lock import lock_directory
from trainers.detectron2.config import read_cfg, train_config_of
from trainers.detectron2.mapper import TrainingMapper
from trainers.optimizer import parameter_groups

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Processes and machines of a training, as in detectron2's `launch`."""

    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"


class Detectron2Trainer(DefaultTrainer):
    """detectron2's DefaultTrainer with mpdiag's mapper and Mask2Former's optimizer.

    The optimizer has Mask2Former's parameter groups and clips the gradient of the full model.
    """

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        # Loading the entries sets some of the metadata.
        entries = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        mapper = TrainingMapper(cfg.DATASETS.TRAIN[0], train_config_of(cfg).data)
        return build_detection_train_loader(cfg, mapper=mapper, dataset=entries)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        settings = train_config_of(cfg).optimizer
        optimizer = torch.optim.AdamW(parameter_groups(model, settings))

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)

        # Not fused, so that gradients of a scaled loss are unscaled before the step.
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
                f"{dataset_name}: detectron2 has no evaluator for evaluator_type {kind} and the "
                "tasks of MODEL.MASK_FORMER.TEST; turn on a task that the data set is annotated for"
            )
        return evaluation.DatasetEvaluators(found) if len(found) > 1 else found[0]


def _evaluators(kind: str | None, test: CfgNode, name: str, folder: str) -> Iterator[Any]:
    """Yield the evaluators of Mask2Former's `train_net.py` that detectron2 has."""
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
    arguments: Sequence[str] = (),
    *,
    output: Path | None = None,
    resume: bool = False,
    eval_only: bool = False,
    launch_options: LaunchOptions = LaunchOptions(),
) -> Path:
    """Train a configuration, or evaluate its `MODEL.WEIGHTS`, and return its OUTPUT_DIR.

    Args:
        file: a detectron2 YAML.
        arguments: KEY VALUE pairs of detectron2, and KEY=VALUE settings of mpdiag.
        output: replaces OUTPUT_DIR.
        resume: continue from the last checkpoint.
        eval_only: evaluate without training.
        launch_options: processes to start.

    Raises:
        ConfigError, DataError: the configuration or its data is invalid.
        RunError: another process writes to OUTPUT_DIR.
    """
    arguments = [*arguments, *(["OUTPUT_DIR", str(output)] if output else [])]
    cfg = read_cfg(file, arguments)
    _check_registered(cfg)
    path = Path(cfg.OUTPUT_DIR)
    with lock_directory(path) if launch_options.machine_rank == 0 else nullcontext():
        launch(
            _in_process,
            launch_options.num_gpus,
            launch_options.num_machines,
            launch_options.machine_rank,
            launch_options.dist_url,
            args=(file, arguments, resume, eval_only),
        )
    return path


@dataclass(frozen=True, slots=True)
class _Arguments:
    """Arguments that detectron2's setup reads and logs."""

    config_file: str
    opts: Sequence[str]
    resume: bool
    eval_only: bool


def _in_process(file: Path, arguments: Sequence[str], resume: bool, eval_only: bool) -> Any:
    """Run one process; each reads the configuration again, which registers its data sets."""
    cfg = read_cfg(file, arguments)
    default_setup(cfg, _Arguments(str(file), arguments, resume, eval_only))
    if eval_only:
        model = Detectron2Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=resume
        )
        return Detectron2Trainer.test(cfg, model)
    trainer = Detectron2Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def _check_registered(cfg: CfgNode) -> None:
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in DatasetCatalog:
            raise DataError(
                f"{name}: not registered in detectron2's catalogs; add the module that registers "
                "it to MPDIAG.IMPORTS, e.g. \"('mask2former',)\""
            )
    if not cfg.DATASETS.TRAIN:
        raise DataError("DATASETS.TRAIN: is empty; give a data set")
