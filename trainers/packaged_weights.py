"""Make the packaged weights from the trainings of `mpdiag demo` and of `synthetic-pretrain`.

mpdiag demo --output runs/demo
mpdiag train synthetic-pretrain --output runs/pretrained
python -m trainers.packaged_weights runs/demo runs/pretrained
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mpdiag.checkpoints import read_weights
from trainers.initialization import WEIGHTS


def shrink_checkpoint(source: Path, target: Path) -> None:
    """Write a checkpoint with float16 weights, without the folder of its training data."""
    content = torch.load(source, map_location="cpu", weights_only=True)
    content["mpdiag"]["recipe"]["data"]["root"] = None
    torch.save({"model": _half(content["model"]), "mpdiag": content["mpdiag"]}, target)


def write_initial_weights(source: Path, target: Path) -> None:
    """Write a checkpoint's backbone and pixel decoder in float16."""
    weights = read_weights(source).weights
    kept = {key: x for key, x in weights.items() if key.startswith(("backbone.", "pixel_decoder."))}
    save_file(_half(kept), target)


def _half(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: x.half() if x.is_floating_point() else x for key, x in weights.items()}


if __name__ == "__main__":
    demo, pretrained = map(Path, sys.argv[1:])
    for trained in sorted(demo.glob("train/*/model_final.pth")):
        shrink_checkpoint(trained, WEIGHTS / f"demo-{trained.parent.name}.pth")
    write_initial_weights(pretrained, WEIGHTS / "synthetic-tiny.safetensors")
