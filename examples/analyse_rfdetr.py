"""Analyse a segmentation model of the package rfdetr.

python examples/analyse_rfdetr.py checkpoint_best_total.pth DATASET
"""

import sys
from typing import Any

from torch import Tensor
from torchvision.transforms.v2 import functional

import mpdiag


def custom_model(detector: Any) -> mpdiag.CustomModel:
    """Return the model of an RFDETR with the preprocessing of its `predict` (rfdetr/detr.py)."""
    from rfdetr.assets.coco_classes import COCO_CLASSES

    size = [detector.model.resolution] * 2

    def preprocess(image: Tensor) -> Tensor:
        image = functional.resize(image.float() / 255, size, antialias=False)
        return functional.normalize(image, detector.means, detector.stds)

    module, names = detector.model.model, dict(enumerate(detector.class_names))
    if detector.model.args.num_classes > len(
        names
    ):  # trained on COCO: logit n is the category id n
        names = COCO_CLASSES
    count = module.class_embed.out_features  # at least one logit has no class
    return mpdiag.CustomModel(module, preprocess, [names.get(n, "unused") for n in range(count)])


if __name__ == "__main__":
    from rfdetr import RFDETRSegNano

    weights, dataset = sys.argv[1:]
    model = custom_model(RFDETRSegNano(pretrain_weights=weights))
    mpdiag.analyze(model, dataset, "runs/rfdetr", evaluate=True)
    print(mpdiag.diagnose("runs/rfdetr"))
