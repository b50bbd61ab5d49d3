"""Make the packaged models of `mpdiag demo --quick` from the trainings of `mpdiag demo`.

mpdiag demo --output runs/demo
python -m trainers.demo_weights runs/demo
"""

import sys
from pathlib import Path

import torch

WEIGHTS = Path(__file__).parent / "weights"


def shrink_checkpoint(source: Path, target: Path) -> None:
    """Write a checkpoint with float16 weights, without the folder of its training data."""
    content = torch.load(source, map_location="cpu", weights_only=True)
    model, recipe = content["model"], content["mpdiag"]["recipe"]
    for name, tensor in model.items():
        model[name] = tensor.half() if tensor.is_floating_point() else tensor
    recipe["data"]["root"] = None
    torch.save({"model": model, "mpdiag": content["mpdiag"]}, target)


if __name__ == "__main__":
    for trained in sorted(Path(sys.argv[1]).glob("train/*/model_final.pth")):
        shrink_checkpoint(trained, WEIGHTS / f"demo-{trained.parent.name}.pth")
