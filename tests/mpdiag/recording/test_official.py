"""The family of the official models, on a small model with their call structure.

tests/detectron2 tests it on the official models.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mpdiag
from mpdiag.errors import RecordingError

LAYERS, QUERIES, DIM, HEADS = 2, 3, 8, 2


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(DIM, HEADS)
        self.weights: list[Tensor] = []

    def forward(self, tgt: Tensor, memory: Tensor, memory_mask: Tensor, pos: Any = None) -> Tensor:
        attended, weights = self.multihead_attn(
            query=tgt, key=memory, value=memory, attn_mask=memory_mask, average_attn_weights=False
        )
        self.weights.append(weights)
        return tgt + attended


class MultiScaleMaskedTransformerDecoderMaskDN(nn.Module):
    """Its heads are a method; in training its first queries are the MP part."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.query_feat = nn.Embedding(QUERIES, DIM)
        self.label_enc = nn.Embedding(4, DIM)
        self.decoder_norm = nn.LayerNorm(DIM)
        self.class_embed = nn.Linear(DIM, 5)
        self.mask_embed = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM))
        self.transformer_cross_attention_layers = nn.ModuleList(Cross() for _ in range(LAYERS))

    def heads(self, query: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = self.decoder_norm(query).transpose(0, 1)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(state), features)
        hidden = masks.flatten(2) < 0
        hidden = hidden & ~hidden.all(-1, keepdim=True)
        hidden = hidden[:, None].repeat(1, HEADS, 1, 1).flatten(0, 1)
        return self.class_embed(state), masks, hidden

    def forward(self, x: Any, features: Tensor, mask: Any = None, dn_args: Any = None) -> Any:
        query = self.query_feat.weight[:, None].repeat(1, len(features), 1)
        dn_out = None
        if dn_args is not None:
            most = max(len(target["labels"]) for target in dn_args)
            embedded = torch.zeros(2 * most, len(features), DIM)
            for image, target in enumerate(dn_args):
                for group in range(2):
                    rows = range(group * most, group * most + len(target["labels"]))
                    embedded[list(rows), image] = self.label_enc(target["labels"])
            query = torch.cat([embedded, query])
            dn_out = {"dn_args": {"pad_size": 2 * most, "max_num": most}}
        outputs = [self.heads(query, features)]
        for layer in self.transformer_cross_attention_layers:
            memory = features.flatten(2).permute(2, 0, 1)
            query = layer(query, memory, memory_mask=outputs[-1][2], pos=None)
            outputs.append(self.heads(query, features))

        def part(rows: slice) -> dict[str, Any]:
            layers = [
                {"pred_logits": classes[:, rows], "pred_masks": masks[:, rows]}
                for classes, masks, _ in outputs
            ]
            return layers[-1] | {"aux_outputs": layers[:-1]}

        if dn_out is not None:
            dn_out |= part(slice(None, -QUERIES))
        return part(slice(-QUERIES, None)) | {"dn_out": dn_out}


class Attention(nn.Module):
    """Deformable attention with 2 heads, one level of 4 x 4 cells and one point."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.n_levels, self.n_points = 2, 1, 1
        self.sampling_offsets = nn.Linear(3, 4)

    def forward(self, query: Tensor, reference: Tensor, flat: Tensor, shapes: Tensor) -> Tensor:
        offsets = self.sampling_offsets(query).view(2, 16, 2, 1, 1, 2)
        self.sampled = reference[:, :, None, :, None] + offsets / shapes.flip(-1)[:, None]
        return flat


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()


class PixelDecoder(nn.Module):
    """Called through a method as well."""

    def __init__(self) -> None:
        super().__init__()
        encoder = nn.ModuleDict({"layers": nn.ModuleList([EncoderLayer()])})
        self.transformer = nn.ModuleDict({"encoder": encoder})
        self.mask_features = nn.Conv2d(3, DIM, 1)

    def forward_features(self, features: Tensor) -> Tensor:
        flat, reference = features.flatten(2).transpose(1, 2), torch.rand(2, 16, 1, 2)
        attention = self.transformer["encoder"]["layers"][0].self_attn
        attention(flat, reference, flat, torch.tensor([[4, 4]]))
        found: Tensor = self.mask_features(features)
        return found


class MaskFormerHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder()
        self.predictor = MultiScaleMaskedTransformerDecoderMaskDN()

    def forward(self, features: Tensor, dn_args: Any = None) -> Any:
        mask_features = self.pixel_decoder.forward_features(features)
        return self.predictor([features], mask_features, None, dn_args=dn_args)


class Matcher(nn.Module):
    """Match query k of layer i to GT k + i of the image; the last layer is matched first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
        layer = [LAYERS, *range(LAYERS)][self.calls % (LAYERS + 1)]
        self.calls += 1
        counts = [len(target["labels"]) for target in targets]
        return [(torch.arange(n), (torch.arange(n) + layer) % max(n, 1)) for n in counts]


class Criterion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matcher = Matcher()

    def forward(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        for layer in [outputs, *outputs["aux_outputs"]]:
            self.matcher(layer, targets)
        return {"loss_mask": outputs["pred_masks"].mean()}


class MaskFormer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sem_seg_head, self.criterion = MaskFormerHead(), Criterion()
        self.output: Any = None

    def forward(self, images: Tensor, targets: Any = None) -> Any:
        self.output = self.sem_seg_head(images, dn_args=targets if self.training else None)
        return self.criterion(self.output, targets) if self.training else self.output


for cls in (MultiScaleMaskedTransformerDecoderMaskDN, MaskFormerHead, MaskFormer):
    cls.__module__ = "mask2former.modeling"


@pytest.fixture
def model() -> MaskFormer:
    torch.manual_seed(0)
    return MaskFormer()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def layers(output: Any, key: str) -> Tensor:
    return torch.stack([*(layer[key] for layer in output["aux_outputs"]), output[key]])


def test_inference(model: MaskFormer, images: Tensor) -> None:
    model.eval()
    plain = model(images)
    with mpdiag.record(model) as recording:
        output = model(images)
    assert torch.equal(output["pred_masks"], plain["pred_masks"])
    assert torch.equal(recording.class_logits, layers(output, "pred_logits"))
    assert torch.equal(recording.mask_logits, layers(output, "pred_masks"))
    within = recording.mask_logits[:-1].flatten(3) >= 0
    assert torch.equal(recording.attention_mask, within | ~within.any(-1, keepdim=True))
    assert torch.equal(recording.query[0, 1], model.sem_seg_head.predictor.query_feat.weight)
    assert "piloted_query" not in recording and "assignment" not in recording
    assert all(not module._forward_hooks for module in model.modules())


def test_training_records_assignments_and_the_mp_part(model: MaskFormer, images: Tensor) -> None:
    targets = [{"labels": torch.tensor([3])}, {"labels": torch.tensor([0, 2])}]
    with mpdiag.record(model) as recording:
        model(images, targets)
        model(images, targets)  # replaces the first pass
    assert torch.equal(recording.mask_logits, layers(model.output, "pred_masks"))
    piloted = model.output["dn_out"]
    assert torch.equal(recording.piloted_mask_logits, layers(piloted, "pred_masks"))
    assert torch.equal(recording.piloted_class_logits, layers(piloted, "pred_logits"))
    assert recording.piloted_attention_mask.shape == (LAYERS, 2, 4, 16)
    assert recording.assignment.tolist() == [
        [[0, -1, -1], [0, 1, -1]],
        [[0, -1, -1], [1, 0, -1]],
        [[0, -1, -1], [0, 1, -1]],
    ]
    assert recording.piloted_assignment.tolist() == [[[0, -1, 0, -1], [0, 1, 0, 1]]] * 3
    embedded = model.sem_seg_head.predictor.label_enc.weight
    assert torch.equal(recording.piloted_query[0, 1], embedded[[0, 2, 0, 2]])


@pytest.mark.parametrize("training", [False, True])
def test_cross_attention_of_the_matching_part(
    model: MaskFormer, images: Tensor, training: bool
) -> None:
    model.train(training)
    targets = [{"labels": torch.tensor([3])}, {"labels": torch.tensor([0, 2])}]
    with mpdiag.record(model, only=["cross_attention"]) as recording:
        model(images, targets)
    layers = model.sem_seg_head.predictor.transformer_cross_attention_layers
    for found, layer in zip(recording.cross_attention, layers, strict=True):
        torch.testing.assert_close(found, layer.weights[-1][:, :, -QUERIES:])


def test_sampling_locations(model: MaskFormer, images: Tensor) -> None:
    with mpdiag.record(model.eval(), only=["sampling_locations"]) as recording:
        model(images)
    sampled = model.sem_seg_head.pixel_decoder.transformer["encoder"]["layers"][0].self_attn.sampled
    torch.testing.assert_close(recording.sampling_locations[0], sampled)


def test_only_requested_names_of_the_head_alone(model: MaskFormer, images: Tensor) -> None:
    model.eval()
    with mpdiag.record(model.sem_seg_head, only=["mask_logits"]) as recording:
        output = model.sem_seg_head(images)
    assert torch.equal(recording.mask_logits, layers(output, "pred_masks"))
    assert "class_logits" not in recording
    with pytest.raises(RecordingError, match="assignment: official Mask2Former does not have it"):
        mpdiag.record(model.sem_seg_head, only=["assignment"]).__enter__()
