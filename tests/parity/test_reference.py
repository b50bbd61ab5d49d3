"""mpdiag's model against figures computed by the official Mask2Former and MP-Former."""

import pytest
import torch
from torch import Tensor

from mpdiag.checkpoints.official_keys import to_official
from mpdiag.config import PilotConfig
from mpdiag.losses import SetLosses, set_losses
from mpdiag.matching import match
from mpdiag.models import Mask2FormerOutput, PilotInputs, build_pilot_inputs


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=1e-4, atol=1e-4)


def test_features(case) -> None:
    with torch.no_grad():
        maps = case.model.backbone(case.model.preprocess(case.images))
        levels, mask_features = case.model.pixel_decoder(maps)
    for stage, found in zip(range(2, 6), maps, strict=True):
        close(found, case.tensors[f"eval.backbone.res{stage}"])
    for level, found in enumerate(levels):
        close(found, case.tensors[f"eval.multi_scale.{level}"])
    close(mask_features, case.tensors["eval.mask_features"])


def test_parameter_names(case) -> None:
    ours = {to_official(name) for name in case.model.state_dict()}
    assert set(case.figures["param_shapes"]) <= ours
    assert set(case.figures["grad_norms"]) <= ours
    assert {x for x in ours if "pixel_decoder" not in x} == set(case.figures["param_shapes"])


def test_all_layers_at_inference(case) -> None:
    with torch.no_grad():
        found = case.model(case.images).matching
    close(found.class_logits, case.tensors["eval.pred_logits"])
    close(found.mask_logits, case.tensors["eval.pred_masks"])


def pilot_of(case) -> PilotInputs | None:
    """Return inputs of two groups of three, padded to the larger image, as the official code."""
    if "mp" not in case.figures:
        return None
    return build_pilot_inputs(
        case.targets,
        PilotConfig(
            num_queries=case.figures["mp"]["pad_size"],
            variant="official",
            noise="none",
            label_noise=0,
        ),
        layers=9,
        num_classes=7,
        generators=[torch.Generator(image.device) for image in case.images],
    )


class GivenPoints:
    """Returns the points that the official run sampled, the same for each layer."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __call__(self, logits: Tensor, image: Tensor) -> Tensor:
        rows = len(logits) // 10
        return self.points[:rows].repeat(10, 1, 1)


def losses_of(case, output: Mask2FormerOutput, pilot: PilotInputs | None) -> dict[str, SetLosses]:
    sampler = GivenPoints(case.tensors["train.loss.point_coords"])
    points = case.tensors["train.matcher.point_coords"][0]
    matching = output.matching
    assignment = match(matching.class_logits, matching.mask_logits, case.targets, points=points)
    assert torch.equal(assignment, case.tensors["train.matched_gt"].cpu())
    count = sum(len(target["labels"]) for target in case.targets)
    parts = {"": (matching, assignment, count)}
    if pilot is not None and output.piloted is not None:
        parts["_dn"] = (
            output.piloted,
            pilot.gt_on_cpu.expand(10, -1, -1),
            int((pilot.gt_on_cpu >= 0).sum()),
        )
    return {
        suffix: set_losses(
            part.class_logits, part.mask_logits, case.targets, found, sampler, num_masks=number
        )
        for suffix, (part, found, number) in parts.items()
    }


def test_training_losses_and_gradients(case) -> None:
    pilot = pilot_of(case)
    case.model.zero_grad()
    output = case.model(case.images, pilot)
    close(output.matching.mask_logits, case.tensors["train.pred_masks"])
    close(output.matching.class_logits, case.tensors["train.pred_logits"])
    if pilot is not None:
        close(output.piloted.mask_logits, case.tensors["train.mp.pred_masks"])
        close(output.piloted.class_logits, case.tensors["train.mp.pred_logits"])

    total = torch.zeros(())
    losses = losses_of(case, output, pilot)
    for suffix, part in losses.items():
        terms = {"ce": 2 * part.class_, "mask": 5 * part.mask, "dice": 5 * part.dice}
        for term, values in terms.items():
            for layer, value in enumerate(values):
                name = f"loss_{term}{suffix}" + ("" if layer == 9 else f"_{layer}")
                assert value.item() == pytest.approx(case.figures["losses"][name], rel=1e-4), name
            total = total + values.sum()
    assert len(losses) * 30 == len(case.figures["losses"])
    assert total.item() == pytest.approx(case.figures["total"], rel=1e-4)

    total.backward()
    # The gradient of a convolution's bias before a group norm is rounding error only.
    for name, weights in case.model.named_parameters():
        norm = 0.0 if weights.grad is None else weights.grad.norm().item()
        expected = case.figures["grad_norms"][to_official(name)]
        assert norm == pytest.approx(expected, rel=1e-4, abs=1e-4), name
    assert len(case.figures["grad_norms"]) == len(list(case.model.parameters()))


ON_GPU = [
    pytest.param("mpformer_r50", "pretended"),
    *(
        pytest.param(name, "cuda", marks=pytest.mark.cuda)
        for name in ("mask2former_r50", "mpformer_r50", "mask2former_swin")
    ),
]


@pytest.mark.parametrize(("case", "gpu"), ON_GPU, indirect=True)
def test_on_a_gpu(case, gpu: torch.device) -> None:
    moved = case.to(gpu)
    test_all_layers_at_inference(moved)
    test_training_losses_and_gradients(moved)
