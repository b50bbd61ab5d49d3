"""Models with hook points: which module is the model, strides, classes with sigmoids."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import mpdiag
from mpdiag.errors import RecordingError
from mpdiag.recording import HookPoint, Recorder, find_family


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_logits, self.mask_logits = HookPoint(), HookPoint()

    def forward(self, images: Tensor) -> Tensor:
        self.class_logits(images.new_zeros(1, 2, 3))
        masks: Tensor = self.mask_logits(images[:, :2])
        return masks


class Whole(nn.Module):
    """A model that calls the module with the hook points, and has the images."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Segmenter()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(images * 2)
        return found


def container(model: nn.Module) -> nn.Module:
    outer = nn.Module()
    outer.models = nn.ModuleDict({"student": model})
    return outer


def lightning(model: nn.Module) -> nn.Module:
    class Module(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            """Serve inference; a training step calls the model itself."""
            found: Tensor = self.model(images)
            return found

    base = type("LightningModule", (nn.Module,), {"__module__": "pytorch_lightning.core.module"})
    outer = type("Own", (Module, base), {})()
    outer.model = model
    return outer


@pytest.mark.parametrize("wrap", [container, lightning, nn.DataParallel, AveragedModel])
@pytest.mark.parametrize("build", [Segmenter, Whole])
def test_the_model_is_the_one_inside_a_wrapper(
    wrap: Callable[[nn.Module], nn.Module], build: type[nn.Module]
) -> None:
    outer = wrap(build())
    (model,) = (module for module in outer.modules() if type(module) is build)
    assert find_family(outer)[1] is model
    images = torch.randn(1, 3, 4, 4)
    with mpdiag.record(outer) as recording:
        expected = model(images)
    assert torch.equal(recording.mask_logits[0], expected)


def test_replicas_of_data_parallel_are_refused() -> None:
    outer = nn.DataParallel(Segmenter())
    outer.device_ids = [0, 1]  # of a machine with two GPUs
    with pytest.raises(RecordingError, match=r"DataParallel on 2 GPUs: copies .* torchrun"):
        Recorder(outer)


def test_the_stride_of_the_masks_is_that_of_their_hook_point() -> None:
    model = Segmenter()
    model.mask_logits = HookPoint(stride=8)
    assert find_family(model)[0].mask_stride(model) == 8


def sigmoid_model(*, stacked: bool) -> tuple[nn.Module, Tensor]:
    """Return a model of three layers with a sigmoid per class, and its (3, B, N, K) logits."""
    logits = torch.randn(3, 2, 5, 4)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.class_logits, self.mask_logits = HookPoint(sigmoid=True), HookPoint()

        def forward(self, images: Tensor) -> Tensor:
            if stacked:
                self.class_logits(list(logits))
            for layer in logits:
                assert stacked or self.class_logits(layer) is layer
                masks: Tensor = self.mask_logits(images.new_zeros(2, 5, 8, 8))
            return masks

    return Model(), logits


@pytest.mark.parametrize("stacked", [False, True])
def test_sigmoids_get_a_logit_of_no_object(stacked: bool) -> None:
    model, logits = sigmoid_model(stacked=stacked)
    with mpdiag.record(model) as recording:
        model(torch.zeros(2, 3, 32, 32))
    family = find_family(model)[0]
    assert (recording.family, family.instance_rule) == (family.name, "sigmoid")
    assert torch.equal(recording.class_logits[..., :-1], logits)
    assert recording.class_logits.shape[-1] == 5 and not recording.class_logits[..., -1].any()
    assert any("sigmoid" in note for note in recording.notes)
    # The last class stays a class, also where it is the best one.
    assert (recording.class_logits.softmax(-1).argmax(-1) == 3).any()


def test_sigmoid_belongs_to_the_class_logits() -> None:
    model = Segmenter()
    model.mask_logits = HookPoint(sigmoid=True)
    with pytest.raises(RecordingError, match="mask_logits: sigmoid=True is a setting of class_log"):
        Recorder(model)


class Decoder(Segmenter):
    """A decoder that gets features of a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 3, 1)


class Predictor(nn.Module):
    """Has hook points, but no forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.ModuleDict({"mask_logits": HookPoint(), "class_logits": HookPoint()})


@pytest.mark.parametrize("build", [Decoder, Predictor])
def test_a_part_of_the_model_is_not_the_model(build: type[nn.Module]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.decoder = nn.Conv2d(3, 3, 1), build()

        def forward(self, **batch: Tensor) -> None:
            """Take any batch."""

    model = Model()
    assert find_family(model)[1] is model
    assert find_family(nn.DataParallel(model))[1] is model


def test_a_module_that_owns_its_hook_points_is_the_model() -> None:
    class Owner(Segmenter):
        def forward(self, *images: Tensor) -> Tensor:
            return super().forward(*images)

    owner = Owner()
    assert find_family(owner)[1] is owner
