"""A training step of transformers' Mask2Former with the weights of a trainer's model."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mpdiag.checkpoints.transformers_config import (
    decoder_settings,
    has_transformers_backbone,
    loss_settings,
)
from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.checkpoints.transformers_keys import to_transformers
from mpdiag.data import Sample
from mpdiag.errors import DependencyError
from mpdiag.models import Mask2Former
from trainers.trainer import Trainer


class TransformersStep:
    """A step of transformers' Mask2Former on the batches of a trainer, with its own loss.

    It starts with the weights of the trainer's model. timm's backbones that transformers does not
    have are wrapped by its `TimmBackbone`.

    Raises:
        DependencyError: transformers is not installed.
    """

    def __init__(self, trainer: Trainer) -> None:
        try:
            self._transformers: Any = importlib.import_module("transformers")
        except ImportError:
            raise DependencyError(
                "bench train compares with transformers, which is not installed; "
                "pip install 'mpdiag[transformers]', or use --no-peer"
            ) from None
        self._transformers.logging.set_verbosity_error()
        self._transformers.logging.disable_progress_bar()
        self.trainer, config, loss = trainer, trainer.config, trainer.config.loss
        # For num_points="all", transformers samples as many points as there are cells.
        self._points = None if loss.num_points == "all" else loss.num_points
        self.model = self._build(trainer.model).to(trainer.distributed.device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )

    def _build(self, model: Mask2Former) -> Any:
        """Return transformers' model with the weights of `model`."""
        model_class = self._transformers.Mask2FormerForUniversalSegmentation
        if has_transformers_backbone(model.config.backbone):
            with TemporaryDirectory() as folder:
                write_transformers(Path(folder), model)
                return model_class.from_pretrained(folder)
        backbone: Any = model.backbone
        theirs = model_class(
            self._transformers.Mask2FormerConfig(
                backbone_config=self._transformers.TimmBackboneConfig(
                    backbone=model.config.backbone.name,
                    out_indices=list(backbone.feature_info.out_indices),
                    freeze_batch_norm_2d=model.config.backbone.norm == "frozen",
                ),
                num_labels=model.config.num_classes,
                dropout=0.0,
                use_auxiliary_loss=True,
                **decoder_settings(model.config),
                **loss_settings(self.trainer.config.loss),
            )
        )
        theirs.model.pixel_level_module.encoder._backbone.load_state_dict(backbone.state_dict())
        rest = {k: x for k, x in model.state_dict().items() if not k.startswith("backbone.")}
        theirs.load_state_dict(to_transformers(rest)[0], strict=False)
        if model.decoder.query_embed is None:
            nn.init.zeros_(theirs.model.transformer_module.queries_embedder.weight)
        return theirs

    def __call__(self, samples: Sequence[Sample]) -> None:
        trainer, config = self.trainer, self.trainer.config
        device, images = trainer.distributed.device, [sample.image for sample in samples]
        pixels = trainer.model.preprocess([image.to(device) for image in images])
        height, width = pixels.shape[-2:]
        criterion = self.model.criterion
        criterion.num_points = self._points or (height // 4) * (width // 4)
        criterion.matcher.num_points = criterion.num_points
        masks = [
            F.pad(s.masks, (0, width - s.masks.shape[-1], 0, height - s.masks.shape[-2]))
            for s in samples
        ]
        with trainer.autocast():
            output = self.model(
                pixel_values=pixels,
                mask_labels=[mask.to(device, torch.float32) for mask in masks],
                class_labels=[sample.labels.to(device) for sample in samples],
            )
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
