"""Fine-tune transformers' Mask2Former with mask piloting on a COCO-format data set of your own.

python examples/finetune_transformers.py DATASET --output OUTPUT

DATASET is a folder with annotations/instances_train.json and instances_val.json, and images in
train/ and val/. OUTPUT gets the model, which loads without mpdiag, and the analysis in OUTPUT/run.
With --backbone, the model is small and starts from random weights around a backbone of timm.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor

import mpdiag
from mpdiag.config import AugmentConfig, DataConfig
from mpdiag.data import SegmentationDataset, build_augmentation, load_dataset
from mpdiag.integrations.transformers import LayerDiagnosticsCallback, MaskPiloting

BASE = "facebook/mask2former-swin-tiny-coco-instance"


class Crops(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Random crops of a data set, as the inputs and labels of Mask2Former."""

    def __init__(self, dataset: SegmentationDataset, size: int, processor: Any) -> None:
        self.dataset = dataset
        self.augment = build_augmentation(DataConfig(augment=AugmentConfig(crop=(size, size))))
        self.mean = torch.tensor(processor.image_mean)[:, None, None]
        self.std = torch.tensor(processor.image_std)[:, None, None]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        sample = self.augment(self.dataset[index], generator)
        return {
            "pixel_values": (sample.image / 255 - self.mean) / self.std,
            "mask_labels": sample.masks.float(),
            "class_labels": sample.labels,
        }


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Stack the images; the number of masks differs from image to image."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {**batch, "pixel_values": torch.stack(batch["pixel_values"])}


def build_model(args: argparse.Namespace, names: dict[int, str]) -> Any:
    """Return the model to fine-tune, with a new class head, and its image processor."""
    if args.backbone is None:
        model = hf.Mask2FormerForUniversalSegmentation.from_pretrained(
            args.model, id2label=names, ignore_mismatched_sizes=True
        )
        return model, hf.AutoImageProcessor.from_pretrained(args.model)
    backbone = hf.TimmBackboneConfig(
        backbone=args.backbone, out_indices=[1, 2, 3, 4], use_pretrained_backbone=False
    )
    sizes: dict[str, Any] = dict.fromkeys(("hidden_dim", "feature_size", "mask_feature_size"), 64)
    sizes |= {"encoder_layers": 1, "decoder_layers": 4, "num_attention_heads": 4}  # M^0 to M^3
    sizes |= {"encoder_feedforward_dim": 128, "dim_feedforward": 128}
    sizes |= {"num_queries": 40, "train_num_points": 1024}
    config = hf.Mask2FormerConfig(backbone_config=backbone, id2label=names, **sizes)
    model = hf.Mask2FormerForUniversalSegmentation(config)
    if args.backbone_weights:
        encoder = model.model.pixel_level_module.encoder._backbone
        missing, _ = encoder.load_state_dict(load_file(args.backbone_weights), strict=False)
        assert not missing
    edges = {"shortest_edge": args.crop, "longest_edge": 4 * args.crop}
    return model, hf.Mask2FormerImageProcessor(size=edges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--output", type=Path, default=Path("finetuned"))
    parser.add_argument("--model", default=BASE, help="name on the hub, or directory")
    parser.add_argument("--backbone", help="name in timm, for a small model instead of --model")
    parser.add_argument("--backbone-weights", help="safetensors file for --backbone")
    parser.add_argument("--piloting", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--every", type=int, default=50, help="steps between two layer curves")
    parser.add_argument("--limit", type=int, help="number of images to evaluate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    hf.set_seed(args.seed)
    train = load_dataset(args.dataset, split="train")
    names = {index: info.name for index, info in enumerate(train.classes)}
    model, processor = build_model(args, names)
    settings = hf.TrainingArguments(
        str(args.output),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=0.05,
        max_grad_norm=0.01,
        lr_scheduler_type="polynomial",
        warmup_steps=args.steps // 20,
        logging_steps=args.every,
        save_strategy="no",
        remove_unused_columns=False,  # masks are inputs that the Trainer does not know
        report_to=[],  # for example ["tensorboard"]
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=args.seed,
    )
    queries = model.config.num_queries  # as many for the MP part
    callbacks = [MaskPiloting(model, queries).callback()] if args.piloting else []
    crops = Crops(train, args.crop, processor)
    trainer = hf.Trainer(model, settings, collate, crops, callbacks=callbacks)
    trainer.add_callback(LayerDiagnosticsCallback(trainer, every=args.every))
    trainer.train()
    trainer.save_model()
    trainer.save_state()  # trainer_state.json has the layer curves
    processor.save_pretrained(args.output)
    summary = mpdiag.analyze(
        args.output, args.dataset, args.output / "run", engine="transformers", limit=args.limit
    )
    print("AP", summary["ap"])


if __name__ == "__main__":
    main()
