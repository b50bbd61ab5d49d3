"""Fine-tune transformers' Mask2Former with mask piloting on a COCO-format data set of your own.

python examples/finetune_transformers.py TRAIN.json --val VAL.json --output DIR

Instead of TRAIN.json, give a folder with annotations/instances_{train,val}.json, train/ and val/.
DIR gets the model, which loads without mpdiag, and in DIR/run the analysis of all its layers.
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
from mpdiag.data import build_augmentation, load_dataset
from mpdiag.integrations.transformers import LayerDiagnosticsCallback, MaskPiloting


class Crops(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Random crops of the images, as inputs and labels of Mask2Former."""

    def __init__(self, dataset: Any, size: int, processor: Any) -> None:
        self.dataset = dataset
        self.augment = build_augmentation(DataConfig(augment=AugmentConfig(crop=(size, size))))
        self.mean = torch.tensor(processor.image_mean)[:, None, None]
        self.std = torch.tensor(processor.image_std)[:, None, None]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        sample = self.augment(self.dataset[index], generator)
        image = (sample.image / 255 - self.mean) / self.std
        labels = {"mask_labels": sample.masks.float(), "class_labels": sample.labels}
        return {"pixel_values": image, **labels}


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Stack the images; the number of masks differs from image to image."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {**batch, "pixel_values": torch.stack(batch["pixel_values"])}


def small_model(args: Any, names: dict[int, str]) -> tuple[Any, Any]:
    """Return a model with 3 layers and random weights, but for a backbone of timm."""
    sizes: dict[str, Any] = dict.fromkeys(("hidden_dim", "feature_size", "mask_feature_size"), 64)
    sizes |= dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 128)
    sizes |= {"encoder_layers": 1, "decoder_layers": 4, "num_attention_heads": 4}  # M^0 to M^3
    backbone = hf.TimmBackboneConfig(
        backbone=args.backbone, out_indices=[1, 2, 3, 4], use_pretrained_backbone=False
    )
    config = hf.Mask2FormerConfig(
        backbone_config=backbone, id2label=names, num_queries=40, train_num_points=1024, **sizes
    )
    model = hf.Mask2FormerForUniversalSegmentation(config)
    encoder = model.model.pixel_level_module.encoder._backbone
    encoder.load_state_dict(load_file(args.backbone_weights), strict=False)
    return model, hf.Mask2FormerImageProcessor(do_resize=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--val", help="annotations of held-out images")
    parser.add_argument("--output", type=Path, default=Path("finetuned"))
    parser.add_argument("--model", default="facebook/mask2former-swin-tiny-coco-instance")
    parser.add_argument("--backbone", help="name in timm, for a small model in place of --model")
    parser.add_argument("--backbone-weights", help="safetensors file of the backbone")
    parser.add_argument("--piloting", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    numbers = {"steps": 2000, "batch-size": 8, "crop": 512, "every": 50, "seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()

    hf.set_seed(args.seed)
    train = load_dataset(args.dataset, split="train")
    names = dict(enumerate(info.name for info in train.classes))
    if args.backbone:
        model, processor = small_model(args, names)
    else:
        load = hf.Mask2FormerForUniversalSegmentation.from_pretrained
        model = load(args.model, id2label=names, ignore_mismatched_sizes=True)
        processor = hf.AutoImageProcessor.from_pretrained(args.model)
    settings = hf.TrainingArguments(
        str(args.output),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=0.05,
        max_grad_norm=0.01,
        warmup_steps=args.steps // 20,
        logging_steps=args.every,
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=args.seed,
        report_to=[],  # for example ["tensorboard"]
    )
    trainer = hf.Trainer(model, settings, collate, Crops(train, args.crop, processor))
    if args.piloting:
        trainer.add_callback(MaskPiloting(model, queries=model.config.num_queries).callback())
    trainer.add_callback(LayerDiagnosticsCallback(trainer, every=args.every))
    trainer.train()
    trainer.save_model()
    trainer.save_state()  # trainer_state.json has the layer curves
    processor.save_pretrained(args.output)
    held_out, run = args.val or args.dataset, args.output / "run"
    print("AP", mpdiag.analyze(args.output, held_out, run, engine="transformers")["ap"])


if __name__ == "__main__":
    main()
