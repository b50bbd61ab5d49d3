"""MaskPiloting against mpdiag's own trainer: the same weights, MP queries and noise."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.checkpoints.transformers_keys import to_transformers
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig, PilotConfig
from mpdiag.integrations.transformers import MaskPiloting
from mpdiag.matching import Target
from mpdiag.models import Mask2Former, build_pilot_inputs
from mpdiag.models.decoder import Decoder
from mpdiag.ops import cell_centers
from mpdiag.recording import record
from trainers.methods import Batch, FullTrainConfig, Randomness, build_method
from trainers.methods.method import TrainingStep

from ... import transformers_models

transformers = pytest.importorskip("transformers")

SIZE = (64, 96)
CELLS = (SIZE[0] // 4, SIZE[1] // 4)
CPU = torch.device("cpu")
MODEL = ModelConfig(
    num_classes=3,
    backbone=BackboneConfig(name="resnet18", channels=(8, 8, 16, 16), norm="batch"),
    hidden_dim=32,
    mask_dim=32,
    num_heads=4,
    encoder_layers=1,
    encoder_feedforward_dim=32,
    feedforward_dim=32,
    decoder_layers=3,
    num_queries=6,
    label_embedding=True,
)


def close(found: Tensor, expected: Tensor, name: str) -> None:
    """Compare with a relative error of 1e-4 of the norm; 0 may be rounding, as before a norm."""
    error = torch.linalg.vector_norm(found - expected)
    assert found.shape == expected.shape, name
    assert error <= 1e-4 * torch.linalg.vector_norm(expected) + 1e-6, (name, error)


def targets_of(*counts: int) -> list[Target]:
    """Return images with this many rectangles of different size."""
    found = []
    for count in counts:
        masks = torch.zeros(count, *SIZE, dtype=torch.bool)
        for gt, mask in enumerate(masks):
            mask[3 + 9 * gt : 30 + 11 * gt, 5 + 13 * gt : 40 + 17 * gt] = True
        found.append(Target(labels=torch.arange(count) % 3, masks=masks))
    return found


def sample_all_cells(features: Tensor, points: Tensor, add_dim: bool = False, **kwargs: Any) -> Any:
    """Sample (R, 1, H, W) at the centres of all cells of the predictions, whatever the points."""
    centers = cell_centers(*CELLS, features.device).expand(len(features), -1, -1)
    return F.grid_sample(features, 2 * centers[:, :, None] - 1, align_corners=False)[..., 0]


@pytest.fixture
def all_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers compare masks at the centres of all cells of the predictions."""
    modeling = transformers.models.mask2former.modeling_mask2former
    monkeypatch.setattr(modeling, "sample_point", sample_all_cells)


class Pair:
    """A training step of mpdiag's trainer, and the same in transformers."""

    def __init__(self, directory: Path, pilot: PilotConfig, targets: list[Target]) -> None:
        torch.manual_seed(0)
        loss = LossConfig(num_points="all")
        config = FullTrainConfig(model=MODEL, method="piloted", pilot=pilot, loss=loss)
        ours = Mask2Former(MODEL)
        self.method = build_method(ours, config)
        write_transformers(directory, ours)
        self.theirs: Any = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
            directory, train_num_points=CELLS[0] * CELLS[1]
        ).train()
        self.piloting = MaskPiloting(
            self.theirs,
            pilot.num_queries,
            pilot.layers,
            pilot.noise,
            pilot.noise_ratio,
            pilot.label_noise,
            num_groups=pilot.num_groups,
            assignment=pilot.assignment,
            variant=pilot.variant,
        )
        self.piloting.loss_config = loss
        images = [torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8) for _ in targets]
        randomness = Randomness.for_step(0, 0, range(len(images)), CPU)
        self.piloting.draw_generators = lambda *_: (
            Randomness.for_step(0, 0, range(len(images)), CPU).generators
        )
        batch = Batch(images, targets, randomness)
        self.step: TrainingStep = self.method.step(batch, self.method.normalizers(targets))
        self.piloting.load(directory)
        self.batch = {
            "pixel_values": ours.preprocess(images),
            "mask_labels": [target["masks"].float() for target in targets],
            "class_labels": [target["labels"] for target in targets],
        }


PILOTS = {
    "default": PilotConfig(num_queries=8),
    "shift": PilotConfig(num_queries=8, noise="shift", noise_ratio=0.4, layers=1),
    "scale": PilotConfig(num_queries=8, noise="scale", layers=2, variant="official"),
    "cell": PilotConfig(num_queries=8, noise="cell"),
    "neighbour": PilotConfig(num_queries=8, noise="neighbour"),
    "matched": PilotConfig(num_queries=8, assignment="match", label_noise=0.5),
    "groups": PilotConfig(num_groups=2, variant="official", noise="none"),
    "fewer queries than GT": PilotConfig(num_queries=2),
}


@pytest.mark.parametrize("pilot", PILOTS.values(), ids=PILOTS)
@pytest.mark.usefixtures("all_cells")
def test_logits_losses_and_gradients_equal_those_of_the_trainer(
    pilot: PilotConfig, tmp_path: Path
) -> None:
    pair = Pair(tmp_path, pilot, targets_of(3, 0, 1) if pilot.num_groups else targets_of(3, 2))
    expected = pair.step.losses()
    torch.stack(list(expected.values())).sum().backward()

    found = {}
    get_loss_dict = pair.theirs.get_loss_dict

    def keep(**kwargs: Any) -> dict[str, Tensor]:
        found.update(get_loss_dict(**kwargs))
        return {name: value.clone() for name, value in found.items()}

    pair.theirs.get_loss_dict = keep
    output = pair.theirs(**pair.batch, output_auxiliary_logits=True)
    predictions = pair.piloting._pass.predictions
    (output.loss + pair.piloting.loss()).backward()

    layers = [*output.auxiliary_logits, output]
    matching, piloted = pair.step.output.matching, pair.step.output.piloted
    for key, logits in (("class", matching.class_logits), ("masks", matching.mask_logits)):
        close(torch.stack([layer[f"{key}_queries_logits"] for layer in layers]), logits, key)
    close(predictions[0], piloted.class_logits, "piloted class logits")
    close(predictions[1], piloted.mask_logits, "piloted mask logits")

    names = {name.replace("cross_entropy", "ce"): value for name, value in found.items()}
    names |= pair.piloting.losses
    assert names.keys() == expected.keys()
    for name, value in expected.items():
        close(names[name], value, name)
    close(output.loss + sum(pair.piloting.losses.values()), sum(expected.values()), "total")

    ours = {name: x.grad for name, x in pair.step.model.named_parameters()}
    close(pair.piloting.class_embeddings.weight.grad, ours.pop("decoder.label_embed.weight"), "")
    gradients, left = to_transformers(ours)
    assert not left
    parameters = dict(pair.theirs.named_parameters())
    assert parameters.keys() == {*gradients, "mask_piloting.weight"}
    for name, gradient in gradients.items():
        close(parameters[name].grad, gradient, name)


ONEFORMER_KEYS = (
    (".cross_attn.multihead_attn.", ".cross_attn."),
    (".cross_attn.norm.", ".cross_norm."),
    (".self_attn.self_attn.", ".self_attn."),
    (".self_attn.norm.", ".self_norm."),
    (".ffn.norm.", ".feedforward_norm."),
    (".ffn.", "."),
    ("decoder_norm.", "norm."),
    ("queries_embedder.", "query_embed."),
)


def decoder_of(oneformer: Any, queries: Tensor) -> Decoder:
    """Return mpdiag's decoder with the weights of a OneFormer, and the queries of one image."""
    config = MODEL.model_copy(update={"num_queries": len(queries), "label_embedding": False})
    state = {"query_feat.weight": queries}
    for name, value in oneformer.model.transformer_module.state_dict().items():
        name = re.sub(r"(mask_embed\.layers\.\d)\.0", r"\1", name.removeprefix("decoder."))
        for theirs, ours in ONEFORMER_KEYS:
            name = name.replace(theirs, ours)
        state[name] = value
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    decoder = Decoder(config)
    assert not decoder.load_state_dict(state, strict=False).missing_keys
    return decoder


@pytest.mark.parametrize("layers", ["all", 1])
def test_logits_of_oneformer_equal_those_of_the_decoder(layers: Any) -> None:
    torch.manual_seed(0)
    oneformer = transformers_models.oneformer(num_queries=6, train_num_points=64).train()
    piloting = MaskPiloting(oneformer, queries=7, layers=layers)
    (target,) = targets_of(3)
    inputs: dict[str, Tensor] = {}
    oneformer.model.transformer_module.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.update(kwargs), with_kwargs=True
    )
    piloting.draw_generators = lambda *_: [torch.Generator().manual_seed(0)]
    with record(oneformer) as recording:
        output = oneformer(
            pixel_values=torch.randn(1, 3, *SIZE),
            task_inputs=torch.tensor([[1, 2, 3, 0, 0, 0, 0]]),
            mask_labels=[target["masks"].float()],
            class_labels=[target["labels"]],
            output_auxiliary_logits=True,
            output_attentions=True,
        )
    found = piloting._pass.predictions
    piloting.loss().backward()

    decoder = decoder_of(oneformer, output.transformer_decoder_contrastive_queries[0].detach())
    pilot = build_pilot_inputs(
        [target],
        piloting.settings,
        layers=3 if layers == "all" else layers,
        num_classes=3,
        generators=[torch.Generator().manual_seed(0)],
    )
    decoder.label_embed = piloting.class_embeddings
    with torch.no_grad():
        expected = decoder(list(inputs["multi_scale_features"]), inputs["mask_features"], pilot)
    predicted = [*output.auxiliary_predictions, output]
    for key, logits in (
        ("class", expected.matching.class_logits),
        ("masks", expected.matching.mask_logits),
    ):
        close(torch.stack([x[f"{key}_queries_logits"] for x in predicted]), logits, key)
    close(found[0], expected.piloted.class_logits, "piloted class logits")
    close(found[1], expected.piloted.mask_logits, "piloted mask logits")
    close(recording.class_logits, expected.matching.class_logits, "recorded class logits")
    close(recording.mask_logits, expected.matching.mask_logits, "recorded mask logits")
    close(recording.query, expected.matching.queries, "recorded queries")
    assert output.attentions[0][0].shape == (1, 4, 6, 6)
    assert piloting.class_embeddings.weight.grad.norm() > 0
