"""One process of test_sharding.py: a diagnosis of a small model."""

import json
from pathlib import Path

import torch

import mpdiag
from mpdiag.analysis.shard import torchrun_shard
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import LossConfig, ModelConfig
from mpdiag.data import load_dataset
from mpdiag.diagnosis import collect
from mpdiag.models import Mask2Former


def diagnose(config: ModelConfig, root: Path, output: Path) -> None:
    """Write the diagnosis, and how many images this process ran, to `output`-RANK."""
    collect.IMAGES_PER_BLOCK = 2
    torch.manual_seed(0)
    model = Mask2Former(config).eval()
    info = TrainingInfo(LossConfig(), short_side=64, long_side=64)
    loaded = LoadedCheckpoint(Path("model"), "module", "0" * 64, model, training_info=info)
    done = [0]
    with torchrun_shard() as shard:
        diagnosis = mpdiag.diagnose(
            loaded,
            load_dataset("synthetic", root=root),
            shard=shard,
            progress=lambda images, expected: done.append(images),
        )
    content = {"diagnosis": diagnosis.as_json(), "images": done[-1]}
    Path(f"{output}-{shard.rank}").write_text(json.dumps(content))
