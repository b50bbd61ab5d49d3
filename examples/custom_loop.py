"""Watch the decoder layers in a training loop of your own, with mpdiag.LayerMonitor.

python examples/custom_loop.py --steps 500 --output runs/custom-loop

The loop trains a small Mask2Former from random weights on images that it draws. For your own
model, replace the model, the images and the losses; the lines with `monitor` stay.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import mpdiag
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.losses import set_losses
from mpdiag.matching import Target, match
from mpdiag.models import Mask2Former

SIDE = 64
CLASSES = ("disc", "square")


def draw(generator: torch.Generator) -> tuple[Tensor, Target]:
    """Return an image with one to three discs and squares, and its GT."""
    ys, xs = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    image = torch.full((3, SIDE, SIDE), 60, dtype=torch.uint8)
    masks, labels = [], []
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        label = int(torch.randint(2, (), generator=generator))
        y, x = torch.randint(12, SIDE - 12, (2,), generator=generator)
        size = torch.randint(6, 12, (), generator=generator)
        if label == 0:
            mask = (ys - y) ** 2 + (xs - x) ** 2 <= size**2
        else:
            mask = ((ys - y).abs() <= size) & ((xs - x).abs() <= size)
        color = torch.randint(100, 255, (3, 1), dtype=torch.uint8, generator=generator)
        image[:, mask] = color
        masks.append(mask)
        labels.append(label)
    return image, Target(labels=torch.tensor(labels), masks=torch.stack(masks))


def batch(seed: int, size: int) -> tuple[list[Tensor], list[Target]]:
    generator = torch.Generator().manual_seed(seed)
    images, targets = zip(*(draw(generator) for _ in range(size)), strict=True)
    return list(images), list(targets)


def build_model() -> Mask2Former:
    return Mask2Former(
        ModelConfig(
            num_classes=len(CLASSES),
            backbone=BackboneConfig(
                name="resnet18", channels=(16, 16, 32, 32), stem_channels=16, norm="batch"
            ),
            hidden_dim=32,
            mask_dim=32,
            num_heads=4,
            encoder_layers=1,
            encoder_feedforward_dim=64,
            decoder_layers=3,
            feedforward_dim=64,
            num_queries=10,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--every", type=int, default=50, help="steps between two measurements")
    parser.add_argument("--output", type=Path, default=Path("runs/custom-loop"))
    args = parser.parse_args()

    torch.manual_seed(0)
    model = build_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    monitor = mpdiag.LayerMonitor(model, every=args.every)
    for step in range(1, args.steps + 1):
        images, targets = batch(step, args.batch_size)
        found = model(images).matching
        predictions = found.class_logits, found.mask_logits  # of all layers
        assignment = match(*predictions, targets)
        count = sum(len(target["labels"]) for target in targets)
        losses = set_losses(*predictions, targets, assignment, None, num_masks=count)
        loss = (2 * losses.class_ + 5 * losses.mask + 5 * losses.dice).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values = monitor.step(targets)  # empty except every 50 steps
        if values:
            curve = " ".join(f"{values.get(f'miou_l/{i}', 0):.2f}" for i in range(1, 4))
            dead = values.get("dead_queries", 0)
            print(f"step {step}: loss {loss.item():.2f}, mIoU-L {curve}, dead queries {dead:.0f}")

    model.eval()
    monitor.start_evaluation(images=16)
    with torch.no_grad():
        for index in range(4):
            images, targets = batch(-1 - index, 4)
            model(images)
            monitor.measure(targets)
    print(monitor.finish_evaluation())
    monitor.write_run(args.output, CLASSES)
    monitor.close()
    print(f"mpdiag dashboard {args.output}")


if __name__ == "__main__":
    main()
