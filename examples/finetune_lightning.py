"""Fine-tune a segmentation model of transformers with Lightning, and log its decoder layers.

python examples/finetune_lightning.py DATASET --output OUTPUT

DATASET is a folder that `mpdiag data check` accepts, for example one with
annotations/instances_train.json and instances_val.json, and images in train/ and val/. OUTPUT gets
the model, the logs (OUTPUT/logs/version_0/metrics.csv) and a run directory for `mpdiag report`
(OUTPUT/run).
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForUniversalSegmentation

from mpdiag.config import AugmentConfig, DataConfig
from mpdiag.data import build_augmentation, load_dataset
from mpdiag.integrations.lightning import LayerDiagnosticsCallback

MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((124, 116, 104), (58, 57, 57)))


class Crops(Dataset[dict[str, Tensor]]):
    """Crops of a split: random in training, always the same in validation."""

    def __init__(self, folder: str, split: str, side: int) -> None:
        self.dataset = load_dataset(folder, split=split)
        augment = AugmentConfig(crop=(side, side), scale_jitter=(0.5, 2.0))
        if split == "val":
            augment = AugmentConfig(crop=(side, side), scale_jitter=(1.0, 1.0), flip=False)
        self.transform = build_augmentation(DataConfig(augment=augment))
        self.is_random = split != "val"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        seed = int(torch.randint(2**31, ())) if self.is_random else index
        sample = self.transform(self.dataset[index], torch.Generator().manual_seed(seed))
        return {
            "pixel_values": (sample.image - MEAN) / STD,
            "mask_labels": sample.masks.float(),
            "class_labels": sample.labels,
        }


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Any]:
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {**batch, "pixel_values": torch.stack(batch["pixel_values"])}


class Mask2FormerModule(LightningModule):
    def __init__(self, model: Any, learning_rate: float) -> None:
        super().__init__()
        self.model, self.learning_rate = model, learning_rate

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        self.log("train/loss", loss, batch_size=len(batch["pixel_values"]))
        return loss

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        loss = self.model(**batch).loss
        self.log("val/loss", loss, batch_size=len(batch["pixel_values"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), self.learning_rate, weight_decay=0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset")
    parser.add_argument("--model", default="facebook/mask2former-swin-tiny-coco-instance")
    parser.add_argument("--output", type=Path, default=Path("finetuned"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--every", type=int, default=50, help="steps between two measurements")
    args = parser.parse_args()

    splits = {split: Crops(args.dataset, split, args.crop) for split in ("train", "val")}
    names = {index: info.name for index, info in enumerate(splits["train"].dataset.classes)}
    model = AutoModelForUniversalSegmentation.from_pretrained(
        args.model, id2label=names, ignore_mismatched_sizes=True
    ).train()  # Lightning keeps the mode of each module
    loaders = {
        split: DataLoader(data, args.batch_size, shuffle=split == "train", collate_fn=collate)
        for split, data in splits.items()
    }
    trainer = Trainer(
        max_steps=args.steps,
        gradient_clip_val=0.01,
        callbacks=[LayerDiagnosticsCallback(every=args.every, run=args.output / "run")],
        logger=CSVLogger(args.output, name="logs"),  # or TensorBoardLogger, WandbLogger, ...
        enable_checkpointing=False,
        log_every_n_steps=args.every,
        default_root_dir=args.output,
    )
    trainer.fit(Mask2FormerModule(model, args.learning_rate), loaders["train"], loaders["val"])
    model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
