"""A segmenter of one's own under the recorder, without a change to its code.

python examples/own_model.py
"""

from typing import Any

import torch
from torch import Tensor, nn

import mpdiag
from mpdiag.recording import Family, Tap, Taps, output, register


# The model: any code. It says nothing of mpdiag, and gives its last layer's predictions only.
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


# The adapter: which modules make what, and how many layers one forward pass has.
class SegmenterFamily(Family):
    name = "my segmenter"

    def recognises(self, model: nn.Module) -> bool:
        return type(model).__name__ == "Segmenter"

    def taps(self, model: Any) -> Taps:
        layers = len(model.layers) + 1
        return {
            "class_logits": Tap([model.classify], layers, output),
            "mask_logits": Tap([model.mask_head], layers, output),
        }


register(SegmenterFamily())

if __name__ == "__main__":
    model = Segmenter().eval()
    with torch.no_grad(), mpdiag.record(model) as recording:
        model(torch.rand(2, 3, 64, 64))
    print(recording)
    print("mIoU-L:", mpdiag.metrics.layer_miou(recording.mask_logits).miou_l.tolist())
