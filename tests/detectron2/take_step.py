"""Take one step on two processes that detectron2's `launch` starts; used by test_bridge.

`python take_step.py FILE.yaml FOLDER [KEY VALUE]...` reads FOLDER/inputs.pt, one image per process.
"""

import sys
from pathlib import Path

import torch
from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from trainers.detectron2.config import read_cfg


def work(file: str, folder: str, arguments: list[str]) -> None:
    import trainers.detectron2  # noqa: F401 - registers the meta-architecture

    torch.set_num_threads(1)
    cfg = read_cfg(Path(file), arguments)
    torch.manual_seed(3)
    model = build_model(cfg).train()
    parallel = DistributedDataParallel(model)
    inputs = torch.load(Path(folder) / "inputs.pt", weights_only=False)
    sum(parallel([inputs[comm.get_rank()]]).values()).backward()
    if comm.is_main_process():
        gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
        torch.save(gradients, Path(folder) / "gradients.pt")


if __name__ == "__main__":
    launch(work, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2], sys.argv[3:]))
