"""Record your own model without a change to its code: write an adapter of about ten lines.

python examples/own_model.py
"""

from typing import Any

import torch
from torch import Tensor, nn

import mpdiag
from mpdiag.recording import Family, HookSpec, HookSpecs, first_output, register


# The model: any code. It does not import mpdiag, and returns the predictions of its last layer.
class MaskHead(nn.Module):
    def forward(self, queries: Tensor, pixels: Tensor) -> Tensor:
        return torch.einsum("bnc,bchw->bnhw", queries, pixels)


class Segmenter(nn.Module):
    def __init__(self, queries: int = 6, classes: int = 4, dim: int = 16, layers: int = 3) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(3, dim, 4, stride=4)
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, 2, 32, batch_first=True) for _ in range(layers)
        )
        self.classify = nn.Linear(dim, classes + 1)
        self.mask_head = MaskHead()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.pixels(images)
        x = self.queries.expand(len(images), -1, -1)
        predictions = self.classify(x), self.mask_head(x, pixels)
        for layer in self.layers:
            x = layer(x, pixels.flatten(2).transpose(1, 2))
            predictions = self.classify(x), self.mask_head(x, pixels)
        return predictions


# The adapter: which modules produce which tensor, and how many layers one forward pass has.
class SegmenterFamily(Family):
    name = "my segmenter"

    def matches(self, model: nn.Module) -> bool:
        return type(model).__name__ == "Segmenter"

    def hooks(self, model: Any) -> HookSpecs:
        layers = len(model.layers) + 1
        return {
            "class_logits": HookSpec([model.classify], layers, first_output),
            "mask_logits": HookSpec([model.mask_head], layers, first_output),
        }


register(SegmenterFamily())

if __name__ == "__main__":
    model = Segmenter().eval()
    with torch.no_grad(), mpdiag.record(model) as recording:
        model(torch.rand(2, 3, 64, 64))
    print(recording)
    print("mIoU-L:", mpdiag.metrics.layer_miou(recording.mask_logits).miou_l.tolist())
