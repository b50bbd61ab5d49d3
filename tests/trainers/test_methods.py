"""Training methods against brute force on small models."""

from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mpdiag.config import TrainConfig
from mpdiag.data import Sample
from mpdiag.errors import ConfigError
from mpdiag.matching import MatchingCosts, match, matching_cost
from mpdiag.models import Mask2Former
from mpdiag.recording import record
from trainers.methods import (
    METHODS,
    Batch,
    CombinedMethod,
    FullTrainConfig,
    Randomness,
    build_method,
    methods_of,
    needs_label_embedding,
)
from trainers.methods.method import TrainingStep

CPU = torch.device("cpu")
COUNTS = (2, 3)


@pytest.fixture
def samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for number, count in enumerate(COUNTS):
        masks = torch.zeros(count, 64, 64, dtype=torch.bool)
        for gt in range(count):
            masks[gt, 5 + 17 * gt : 20 + 17 * gt, 8 + 6 * number : 40] = True
        image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        labels = torch.arange(count) % 3
        found.append(Sample(number, f"{number}.jpg", image, masks, labels, (64, 64)))
    return found


def method_of(small_recipe, *changes: str) -> CombinedMethod:
    config: TrainConfig = small_recipe("model.num_classes=3", *changes)
    label = needs_label_embedding(config)
    model = config.model.model_copy(update={"label_embedding": label})
    torch.manual_seed(0)
    return build_method(Mask2Former(model), config.model_copy(update={"model": model}))


def batch_of(samples: list[Sample], step: int = 0) -> Batch:
    return Batch.from_samples(samples, Randomness.for_step(0, step, range(len(samples)), CPU))


def losses_of(method: CombinedMethod, batch: Batch) -> dict[str, Tensor]:
    return method(batch, method.normalizers(batch.targets))


def step_of(method: CombinedMethod, batch: Batch) -> TrainingStep:
    return method.step(batch, method.normalizers(batch.targets))


def names_of(method: str) -> list[str]:
    return [found.name for found in methods_of(TrainConfig(method=method))]


def test_methods_combine_with_the_baseline_first() -> None:
    assert names_of("baseline") == ["baseline"]
    assert names_of("piloted + auxiliary-loss") == ["baseline", "auxiliary-loss", "piloted"]
    assert names_of("per-pixel") == ["per-pixel"]
    with pytest.raises(ConfigError, match=r"unknown method 'pilotted'; choose from baseline, "):
        names_of("auxiliary-loss+pilotted")
    with pytest.raises(ConfigError, match="per-pixel does not combine with others"):
        names_of("piloted+per-pixel")


def test_methods_declare_name_description_settings_and_losses(small_recipe, samples) -> None:
    for name, found in METHODS.items():
        assert found.name == name and found.description
        if found.section:
            assert isinstance(getattr(FullTrainConfig(), found.section), found.settings_type)
        method = method_of(small_recipe, f"method={name}")
        layers = [method.layer_of(loss) for loss in losses_of(method, batch_of(samples))]
        terms = {term for term, layer in layers if layer is not None}
        assert terms == {
            x for part in methods_of(TrainConfig(method=name)) for x in part.layer_losses
        }
        assert {layer for _, layer in layers} <= {None, 0, 1, 2, 3}
        assert any(layer == 3 for _, layer in layers) != found.stands_alone


def test_docs_describe_every_method() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert all(f"| `{name}` |" in text for name in METHODS)


def test_a_training_step_can_be_recorded(small_recipe, samples) -> None:
    method = method_of(small_recipe, "method=piloted")
    with record(method.model) as recording:
        losses_of(method, batch_of(samples))
    layers = method.model.config.decoder_layers + 1
    assert recording.mask_logits.shape[:2] == (layers, len(samples))
    assert recording.piloted_mask_logits.shape[:2] == (layers, len(samples))


def test_fixed_matching_uses_the_last_layer_for_all(small_recipe, samples) -> None:
    method = method_of(small_recipe, "method=fixed-matching")
    batch = batch_of(samples)
    step = step_of(method, batch)
    output = step.output.matching
    each_layer = match(output.class_logits, output.mask_logits, batch.targets, costs=step.costs)
    assert torch.equal(step.assignment, each_layer[-1:].expand_as(each_layer))
    assert not torch.equal(step.assignment, each_layer)
    assert torch.equal(step_of(method_of(small_recipe), batch).assignment, each_layer)


def test_auxiliary_loss_adds_a_term_for_each_pair_of_layers(small_recipe, samples) -> None:
    batch = batch_of(samples)
    plain = losses_of(method_of(small_recipe), batch)
    method = method_of(small_recipe, "method=auxiliary-loss", "auxiliary_loss.weight=2")
    both = losses_of(method, batch)
    added = {name: x for name, x in both.items() if name not in plain}
    assert added.keys() == {f"loss_consistency_{i}" for i in (1, 2, 3)}
    assert all(torch.equal(both[name], plain[name]) for name in plain)
    logits = method.model(batch.images).matching.mask_logits
    for i in (1, 2, 3):
        label = (logits[i - 1] > 0).float()
        p = logits[i].sigmoid()
        expected = 2 * -(label * p.log() + (1 - label) * (1 - p).log()).mean()
        assert added[f"loss_consistency_{i}"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_bipartite_assignment_of_the_mp_part_is_the_cheapest_in_each_group(
    small_recipe, samples
) -> None:
    method = method_of(
        small_recipe, "method=piloted", "pilot.assignment=match", "pilot.num_queries=7"
    )
    batch = batch_of(samples)
    step = step_of(method, batch)
    pilot, output = step.pilot, step.output.piloted
    assert pilot is not None and output is not None
    found = method.methods["piloted"].piloted_assignment(step)
    cost = matching_cost(
        output.class_logits, output.mask_logits, batch.targets, MatchingCosts(), None
    )
    checked = 0
    for image, count in enumerate(COUNTS):
        for group in range(7 // count):
            queries = (pilot.group[image] == group).nonzero()[:, 0]
            assert len(queries) == count
            for layer in range(len(found)):
                block = cost[layer, image, queries].detach().tolist()
                cheapest = min(
                    permutations(range(count)),
                    key=lambda order: sum(block[i][gt] for i, gt in enumerate(order)),
                )
                assert found[layer, image, queries].tolist() == list(cheapest)
                checked += 1
    assert checked == 4 * (3 + 2)
    assert (found[:, pilot.gt < 0] == -1).all()


def test_mean_features_within_masks_are_queries(small_recipe, samples) -> None:
    method = method_of(
        small_recipe, "method=piloted", "pilot.query_input=feature-mean", "pilot.noise=none"
    )
    assert method.model.decoder.label_embed is None
    batch = batch_of(samples)
    pilot = step_of(method, batch).pilot
    assert pilot is not None and pilot.visible(0, (8, 8)) is None  # no GT as attention mask
    features = torch.randn(2, 32, 16, 16)
    content, position = pilot.query_input(pilot, None, features)
    assert position is None
    for image, count in enumerate(COUNTS):
        for query in range(12 // count * count):
            mask = batch.targets[image]["masks"][query % count]
            inside = mask.view(16, 4, 16, 4).any(3).any(1)
            expected = features[image][:, inside].mean(1)
            torch.testing.assert_close(content[image, query], expected)
    assert losses_of(method, batch)["loss_ce_dn"] > 0


@pytest.mark.parametrize(("variant", "trained"), [("paper", True), ("official", False)])
def test_mean_features_of_the_official_code_have_no_gradient(
    small_recipe, samples, variant: str, trained: bool
) -> None:
    changes = ["method=piloted", "pilot.query_input=feature-mean", f"pilot.variant={variant}"]
    pilot = step_of(method_of(small_recipe, *changes), batch_of(samples)).pilot
    assert pilot is not None
    features = torch.randn(2, 32, 16, 16, requires_grad=True)
    assert pilot.query_input(pilot, None, features)[0].requires_grad == trained


def test_mask_codes_train_their_mlp(small_recipe, samples) -> None:
    method = method_of(small_recipe, "method=piloted", "pilot.query_input=mask-code")
    batch = batch_of(samples)
    torch.stack(list(losses_of(method, batch).values())).sum().backward()
    own = [x for name, x in method.named_parameters() if name.startswith("methods.")]
    assert len(own) == 4 and all(x.grad is not None and x.grad.any() for x in own)
    assert not any("piloted" in name for name in method.model.state_dict())
    embedding = method.model.decoder.label_embed
    assert embedding is not None and embedding.weight.grad is not None


def test_mean_features_need_the_width_of_queries(small_recipe) -> None:
    with pytest.raises(ConfigError, match=r"model\.mask_dim \(64\) must equal model\.hidden_dim"):
        method_of(
            small_recipe, "method=piloted", "pilot.query_input=feature-mean", "model.mask_dim=64"
        )


@pytest.mark.parametrize("maps, sides", [("coarse-to-fine", [2, 4, 8]), ("all-large", [8, 8, 8])])
def test_layers_attend_to_the_configured_feature_maps(
    small_recipe, samples, maps: str, sides: list[int]
) -> None:
    method = method_of(small_recipe, f"model.feature_maps={maps}")
    seen = []
    point = method.model.decoder.hook_points.attention_mask
    handle = point.register_forward_hook(lambda _, __, mask: seen.append(mask.shape[-1]))
    with record(method.model, only=["mask_logits"]):
        method.model([sample.image for sample in samples])
    handle.remove()
    assert seen == [side * side for side in sides]


def test_without_masked_attention_only_mp_queries_attend_within_masks(
    small_recipe, samples
) -> None:
    """As many layers as `pilot.layers` use GT masks; everything else attends everywhere."""
    method = method_of(
        small_recipe, "method=piloted", "pilot.layers=2", "model.masked_attention=false",
        "pilot.noise=none",
    )  # fmt: skip
    matching, piloted = [], []
    points = method.model.decoder.hook_points
    points.attention_mask.register_forward_hook(lambda _, __, mask: matching.append(mask))
    points.piloted_attention_mask.register_forward_hook(lambda _, __, mask: piloted.append(mask))
    pilot = step_of(method, batch_of(samples)).pilot
    method.model([sample.image for sample in samples], pilot)
    assert all(mask.all() for mask in matching) and len(matching) == 3
    for layer, side in enumerate((2, 4)):
        expected = pilot.masks.at((side, side)).flatten(2)
        expected = expected | ~expected.any(-1, keepdim=True)
        assert torch.equal(piloted[layer], expected)
    assert not piloted[1].all() and piloted[2].all()


@pytest.mark.parametrize("layers", [1, 2, "all"])
def test_number_of_layers_with_gt_masks(small_recipe, samples, layers) -> None:
    method = method_of(small_recipe, "method=piloted", f"pilot.layers={layers}", "pilot.noise=none")
    pilot = step_of(method, batch_of(samples)).pilot
    assert pilot is not None
    masked = [pilot.visible(layer, (8, 8)) is not None for layer in range(3)]
    assert masked == [layer < (3 if layers == "all" else layers) for layer in range(3)]


@pytest.mark.parametrize("method", ["piloted", "all"])
def test_images_without_gt_have_all_losses(
    small_recipe, samples, combined_methods: str, method: str
) -> None:
    built = method_of(small_recipe, f"method={combined_methods if method == 'all' else method}")
    usual = losses_of(built, batch_of(samples))
    without_gt = [
        Sample(s.image_id, s.file_name, s.image, s.masks[:0], s.labels[:0], s.original_size)
        for s in samples
    ]
    batch = batch_of(without_gt)
    normalizers = built.normalizers(batch_of(samples).targets)
    losses = built(batch, normalizers)
    assert losses.keys() == usual.keys()
    assert all(losses[name] == 0 for name in losses if name.endswith("_dn"))
    torch.stack(list(losses.values())).sum().backward()
    assert all(x.grad is not None for x in built.parameters() if x.requires_grad)


def test_padding_queries_of_the_mp_part_have_no_loss(small_recipe, samples) -> None:
    """With 10 queries, image 0 has 10 and image 1 has 9, so one is padding."""
    method = method_of(
        small_recipe, "method=piloted", "pilot.num_queries=10", "pilot.label_noise=0"
    )
    batch = batch_of(samples)
    step = step_of(method, batch)
    pilot, output = step.pilot, step.output.piloted
    assert pilot is not None and output is not None and (pilot.gt < 0).sum() == 1
    expected = 0.0
    for image, query in (pilot.gt >= 0).nonzero().tolist():
        label = batch.targets[image]["labels"][pilot.gt[image, query]]
        logits = output.class_logits[-1, image, query]
        expected -= logits.log_softmax(0)[label].item() / 19
    normalizers = method.normalizers(batch.targets)
    assert (normalizers["piloted_masks"], normalizers["piloted_class_weight"]) == (19, 19)
    found = losses_of(method, batch_of(samples))["loss_ce_dn"]
    assert found.item() == pytest.approx(2 * expected, rel=1e-3)


@pytest.mark.parametrize("gt", ["gt", "no gt"])
@pytest.mark.parametrize("method", METHODS)
def test_every_trained_parameter_has_a_gradient(
    small_recipe, samples, method: str, gt: str
) -> None:
    """DDP requires this, also with class embeddings that no MP part uses."""
    config: TrainConfig = small_recipe(
        f"method={method}", "model.num_classes=3", "model.label_embedding=true"
    )
    if gt == "no gt":
        for sample in samples:
            sample.masks, sample.labels = sample.masks[:0], sample.labels[:0]
    combined = build_method(Mask2Former(config.model), config)
    torch.stack(list(losses_of(combined, batch_of(samples)).values())).sum().backward()
    trained = {name: x for name, x in combined.named_parameters() if x.requires_grad}
    assert trained and not [name for name, x in trained.items() if x.grad is None]
