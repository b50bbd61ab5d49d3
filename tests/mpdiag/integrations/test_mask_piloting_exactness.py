"""MaskPiloting against mpdiag's own trainer: the same weights, MP queries and noise."""

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
from mpdiag.models import Mask2Former
from mpdiag.ops import cell_centers
from trainers.methods import Batch, FullTrainConfig, Randomness, build_method
from trainers.methods.method import TrainingStep

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
        with torch.no_grad():
            embeddings = ours.decoder.label_embed
            assert embeddings is not None
            self.piloting.class_embeddings.weight.copy_(embeddings.weight)
        self.batch = {
            "pixel_values": ours.preprocess(images),
            "mask_labels": [target["masks"].float() for target in targets],
            "class_labels": [target["labels"] for target in targets],
        }


PILOTS = {
    "default": PilotConfig(num_queries=8),
    "shift": PilotConfig(num_queries=8, noise="shift", noise_ratio=0.4, layers=1),
    "scale": PilotConfig(num_queries=8, noise="scale", layers=2, variant="official"),
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
