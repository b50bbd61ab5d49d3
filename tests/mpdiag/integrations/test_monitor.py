"""LayerMonitor on a model whose predictions are its parameters, and on mpdiag's own model."""

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mpdiag
from mpdiag.config import ModelConfig
from mpdiag.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    OutputError,
    RecordingError,
    RunError,
)
from mpdiag.integrations.evaluation_rows import EvaluationRows
from mpdiag.integrations.monitor import write_final_run
from mpdiag.models import Mask2Former
from mpdiag.recording import HookPoint
from mpdiag.store.run import Run

Targets = list[dict[str, Tensor]]


class Segmenter(nn.Module):
    """Predicts the same masks for all images: 2 layers of 3 queries on a grid of 2 x 4 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.class_logits, self.mask_logits = HookPoint(), HookPoint()
        masks = torch.tensor(
            [
                [[1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]],
                [[1, 1, 0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]],
            ]
        )
        self.masks = nn.Parameter((masks.view(2, 3, 2, 4) * 2.0 - 1) * 4)
        # Class 0 with a high score; the second query is the most confident, the third has none.
        self.classes = nn.Parameter(torch.tensor([[4.0, 0, 0], [6.0, 0, 0], [0, 0, 8.0]]))
        self.runs = 0

    def forward(self, images: Tensor) -> Tensor:
        self.runs += 1
        total = images.mean() * 0
        for layer in self.masks:
            classes = self.class_logits(self.classes.expand(len(images), -1, -1))
            masks = self.mask_logits(layer.expand(len(images), -1, -1, -1))
            total = total + classes.square().mean() + masks.square().mean()
        return total


def left_and_right() -> dict[str, Tensor]:
    """GT 0 is the left half of a 8 x 16 image, GT 1 its right half; both of class 0."""
    masks = torch.zeros(2, 8, 16, dtype=torch.bool)
    masks[0, :, :8], masks[1, :, 8:] = True, True
    return {"labels": torch.zeros(2, dtype=torch.int64), "masks": masks}


def no_object() -> dict[str, Tensor]:
    return {
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 8, 16, dtype=torch.bool),
    }


def run_steps(
    monitor: mpdiag.LayerMonitor, model: nn.Module, targets: Targets, steps: int
) -> list[dict[str, float]]:
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    values = []
    for _ in range(steps):
        model(torch.ones(len(targets), 3, 8, 16)).backward()
        optimizer.step()
        values.append(monitor.step(targets))
    return values


def test_values_of_a_step_are_those_computed_by_hand() -> None:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=2)
    first, values = run_steps(monitor, model, [left_and_right(), no_object()], 2)
    assert first == {}
    # Pairs of layers 0 and 1: query 0 keeps its mask, query 1 moves to the other half, and query 2
    # is empty twice, so it has no IoU.
    assert values["miou_l/1"] == pytest.approx((1 + 0) / 2)
    assert values["empty_masks/0"] == values["empty_masks/1"] == pytest.approx(1 / 3)
    # In layer 0, query 0 matches the left GT and query 1 the right one. In layer 1 both cover the
    # left GT. The more confident query 1 matches it; the empty query 2 is nearer to the right GT
    # than query 0, whose cells are all wrong.
    assert values["util/0"] == 0 and values["util/1"] == 1
    # All three queries change their match in one of two images.
    assert values["instability/1"] == pytest.approx(3 / 2)
    # Of the two most confident queries, one repeats the left GT in layer 1.
    assert values["duplicates/0"] == 0 and values["duplicates/1"] == pytest.approx(1 / 2)
    assert values["dead_queries"] == 1
    assert "miou_l/0" not in values and "instability/0" not in values
    # |logit| = 4 in all cells. In layer 1, half of the cells of query 2 are wrong.
    right, wrong = (torch.nn.functional.softplus(torch.tensor(x)) for x in (-4.0, 4.0))
    assert values["loss_mask/0"] == pytest.approx(float(right), rel=1e-5)
    assert values["loss_mask/1"] == pytest.approx(float(3 * right + wrong) / 4, rel=1e-5)


def test_passes_in_evaluation_mode_leave_the_gt_of_the_step() -> None:
    """A validation between the pass of a step and `step`."""
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=1)
    expected = run_steps(monitor, model, [left_and_right()], 1)
    images = torch.ones(1, 3, 8, 16)
    model(images)
    model.eval()
    model(images)  # without an evaluation
    monitor.start_evaluation()
    model(images)
    monitor.measure([left_and_right()])
    evaluated = monitor.finish_evaluation()
    model.train()
    assert monitor.step([left_and_right()]) == expected[0]
    assert evaluated["util/0"] == expected[0]["util/0"]


def test_dead_queries_are_those_of_all_measured_steps_so_far() -> None:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=1)
    left = {name: value[:1] for name, value in left_and_right().items()}
    dead = []
    for classes in ([4.0, 6.0], [4.0, 6.0], [6.0, 4.0]):  # the more confident one matches
        with torch.no_grad():
            model.classes[:2, 0] = torch.tensor(classes)
        dead.append(run_steps(monitor, model, [left], 1)[0]["dead_queries"])
    assert dead == [2, 2, 1]


def test_a_resumed_training_is_measured_at_the_same_steps() -> None:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=10)
    monitor.iteration = 18
    values = run_steps(monitor, model, [left_and_right()], 2)
    assert not values[0] and values[1] and monitor.iteration == 20


def test_steps_between_measurements_have_no_hooks_on_the_layers() -> None:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=3)
    hooks: list[int] = []
    counter = model.mask_logits.register_forward_hook(
        lambda *_: hooks.append(len(model.mask_logits._forward_hooks) - 1)
    )
    run_steps(monitor, model, [left_and_right()], 4)
    assert hooks == [0, 0, 0, 0, 1, 1, 0, 0]  # two layers in each step
    monitor.close()
    counter.remove()
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())


def test_a_closed_monitor_stays_closed() -> None:
    model, images = Segmenter(), torch.ones(1, 3, 8, 16)
    with mpdiag.LayerMonitor(model, every=1) as monitor:
        model(images)
        assert monitor.is_pending
    assert not monitor.is_pending
    model(images)
    assert monitor.step([left_and_right()]) == {}
    monitor.iteration = 9
    monitor.start_evaluation()
    model.eval()(images)
    assert not monitor.is_pending and monitor.finish_evaluation() == {}
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())


def test_accumulated_batches_count_as_one_step() -> None:
    model = Segmenter()
    whole = run_steps(
        mpdiag.LayerMonitor(model, every=1), model, [left_and_right(), no_object()], 1
    )
    monitor = mpdiag.LayerMonitor(model, every=1)
    for one in (left_and_right(), no_object()):
        model(torch.ones(1, 3, 8, 16)).backward()
        monitor.measure([one])
    parts = monitor.step()
    metrics = {name for name in parts if not name.startswith("loss_")}
    assert {name: parts[name] for name in metrics} == {name: whole[0][name] for name in metrics}


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_pass_counts_once(reentrant: bool) -> None:
    model = Segmenter()
    expected = run_steps(mpdiag.LayerMonitor(model, every=1), model, [left_and_right()], 1)[0]
    monitor = mpdiag.LayerMonitor(model, every=1)
    model.runs = 0
    images = torch.ones(1, 3, 8, 16, requires_grad=True)
    checkpoint(model, images, use_reentrant=reentrant).backward()
    assert model.runs == 2
    assert monitor.step([left_and_right()]) == expected


def test_training_with_and_without_a_monitor_is_bit_equal(small_config: ModelConfig) -> None:
    target = left_and_right()
    target["masks"] = target["masks"].repeat_interleave(5, 1).repeat_interleave(3, 2)  # 40 x 48

    def train(monitored: bool) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        model = Mask2Former(small_config).train()
        monitor = mpdiag.LayerMonitor(model, every=1) if monitored else None
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            found = model([torch.randint(0, 255, (3, 40, 48), dtype=torch.uint8)]).matching
            loss = found.mask_logits.square().mean() + found.class_logits.square().mean()
            loss.backward()
            optimizer.step()
            if monitor:
                values = monitor.step([target])
                assert values["miou_l/4"] >= 0 and "util/0" in values
        return torch.rand(1), [parameter.detach() for parameter in model.parameters()]

    random, parameters = train(monitored=False)
    random_monitored, monitored = train(monitored=True)
    assert random == random_monitored
    assert all(map(torch.equal, parameters, monitored))


def test_values_under_autocast_are_those_of_the_logits_in_full_precision() -> None:
    model = Segmenter()
    expected = run_steps(mpdiag.LayerMonitor(model, every=1), model, [left_and_right()], 1)[0]
    model = model.bfloat16()  # 4, 6 and 8 are exact
    monitor = mpdiag.LayerMonitor(model, every=1)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.ones(1, 3, 8, 16)).backward()
    assert monitor.step([left_and_right()]) == pytest.approx(expected, rel=1e-5)


def test_a_measured_step_keeps_no_tensors() -> None:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=1)
    images, kept = torch.ones(1, 3, 8, 16), []
    model.mask_logits.register_forward_hook(lambda *call: kept.append(weakref.ref(call[2])))
    kept.append(weakref.ref(images))
    model(images).backward()
    monitor.step([left_and_right()])
    del images
    assert len(kept) == 3 and not any(reference() is not None for reference in kept)


def test_a_pass_that_fails_keeps_no_inputs_after_the_next_pass() -> None:
    model = Segmenter()
    mpdiag.LayerMonitor(model, every=1)
    images = torch.ones(1, 3, 8, 16)
    kept = weakref.ref(images)
    fails = model.mask_logits.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images)
    fails.remove()
    del images
    model.eval()(torch.ones(1, 3, 8, 16))
    assert kept() is None


def test_an_evaluation_of_no_images_measures_nothing() -> None:
    model = Segmenter().eval()
    monitor = mpdiag.LayerMonitor(model)
    monitor.start_evaluation(images=0)
    model(torch.ones(1, 3, 8, 16))
    monitor.measure([left_and_right()])
    assert monitor.finish_evaluation() == {}


def test_evaluation_equals_the_summary_of_its_run_directory(
    small_config: ModelConfig, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = Mask2Former(small_config).eval()
    monitor = mpdiag.LayerMonitor(model)
    generator = torch.Generator().manual_seed(0)
    monitor.start_evaluation(images=5)
    for count in (0, 2, 1, 7, 3, 2):  # one image has more GT than queries; the last is not measured
        image = torch.randint(0, 255, (3, 40, 56), dtype=torch.uint8, generator=generator)
        masks = torch.rand(count, 40, 56, generator=generator) > 0.6
        labels = torch.randint(0, 3, (count,), generator=generator)
        with torch.inference_mode():
            model([image])
        monitor.measure([{"labels": labels, "masks": masks}])
    values = monitor.finish_evaluation()
    summary = monitor.write_run(tmp_path / "run", ["disc", "square", "star"])
    run = Run.open(tmp_path / "run")
    assert run.header["classes"][2]["name"] == "star" and summary["num_images"] == 5
    for layer in [{"layer": 0, **summary["m0"]}, *summary["layers"]]:
        for name in ("miou_l", "util", "instability", "empty_masks", "duplicates"):
            own = values.get(f"{name}/{layer['layer']}")
            assert own == pytest.approx(layer[name], abs=1e-12), (name, layer["layer"])
    assert len(list((tmp_path / "run" / "thumbnails").glob("*.jpg"))) == 5


def test_a_run_directory_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Segmenter().eval()
    monitor = mpdiag.LayerMonitor(model)
    monitor.start_evaluation()
    model(torch.ones(1, 3, 8, 16))
    monitor.measure([left_and_right()])
    monitor.finish_evaluation()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/run: cannot be written .*; choose another path"):
        monitor.write_run(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match=r"run: 1 names of classes, but the model has 2 classes"):
        monitor.write_run(tmp_path / "run", ["only one"])
    # The callbacks let the trainer save the model.
    write_final_run(monitor, tmp_path / "file" / "run")
    write_final_run(monitor, tmp_path / "run", ["only one"])
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert monitor.write_run(tmp_path / "run")["num_images"] == 1


def test_padding_labels_are_no_objects_in_training_and_evaluation(tmp_path: Path) -> None:
    model = Segmenter()
    (expected,) = run_steps(mpdiag.LayerMonitor(model, every=1), model, [left_and_right()], 1)
    padded = left_and_right()
    padded["labels"] = torch.tensor([0, 0, 2])  # K = 2
    padded["masks"] = torch.cat([padded["masks"], torch.zeros(1, 8, 16, dtype=torch.bool)])
    monitor = mpdiag.LayerMonitor(model, every=1)
    assert run_steps(monitor, model, [padded], 1)[0] == expected
    model.eval()
    monitor.start_evaluation()
    model(torch.ones(1, 3, 8, 16))
    monitor.measure([padded])
    assert monitor.finish_evaluation()["util/0"] == expected["util/0"]
    monitor.write_run(tmp_path / "run")


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_run_of_images_with_other_channels(channels: int, tmp_path: Path) -> None:
    """Grey images, also with alpha, and RGB with depth; the first channels are shown."""
    model = Segmenter().eval()
    monitor = mpdiag.LayerMonitor(model)
    images = torch.zeros(1, channels, 8, 16)
    images[:, : 3 if channels == 4 else 1, :, 8:] = 1
    monitor.start_evaluation()
    model(images)
    monitor.measure([left_and_right()])
    monitor.finish_evaluation()
    monitor.write_run(tmp_path / "run")
    (thumbnail,) = (tmp_path / "run" / "thumbnails").glob("*.jpg")
    pixels = np.asarray(Image.open(thumbnail))
    assert pixels.shape == (8, 16, 3)
    assert pixels[:, :6].max() < 30 and pixels[:, -6:].min() > 225


def test_rows_are_kept_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Segmenter().eval()
    monitor = mpdiag.LayerMonitor(model)
    monkeypatch.setattr(EvaluationRows, "add", lambda *_: pytest.fail("rows are computed"))
    monitor.start_evaluation(keep_rows=False)
    model(torch.ones(1, 3, 8, 16))
    monitor.measure([left_and_right()])
    assert "util/0" in monitor.finish_evaluation()
    with pytest.raises(
        RunError, match=r"run: no held-out image .* start_evaluation\(keep_rows=Tru"
    ):
        monitor.write_run(tmp_path / "run")


def test_without_gt_only_the_metrics_of_masks_are_returned() -> None:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=1)
    model(torch.ones(1, 3, 8, 16))
    assert set(monitor.step()) == {"miou_l/1", "empty_masks/0", "empty_masks/1"}


def test_non_finite_predictions_name_layer_queries_and_image() -> None:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=1)
    with torch.no_grad():
        model.masks[1, :2, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"mask prediction \(2 of 3 queries\) of layer 1, ima"):
        model(torch.ones(1, 3, 8, 16))
    monitor.close()
    monitor = mpdiag.LayerMonitor(model, every=1, check_finite=False)
    # The only finite query of layer 1 is empty.
    assert run_steps(monitor, model, [left_and_right()], 1)[0]["empty_masks/1"] == 1


@pytest.mark.parametrize(
    ("sides", "classes", "message"),
    [
        ([2, 4], 2, r"mask_logits: layers of different shapes \(\(1, 3, 2, 4\), \(1, 3, 4, 8\)\)"),
        ([2, 2], 1, "class_logits: 1 layers, but mask_logits have 2"),
    ],
)
def test_layers_that_cannot_be_compared_are_an_error(
    sides: list[int], classes: int, message: str
) -> None:
    class Other(Segmenter):
        def forward(self, images: Tensor) -> Tensor:
            for _ in range(classes):
                self.class_logits(self.classes[None])
            for side in sides:
                self.mask_logits(images.new_zeros(1, 3, side, 2 * side))
            return images

    model = Other()
    with mpdiag.LayerMonitor(model, every=1), pytest.raises(RecordingError, match=message):
        model(torch.ones(1, 3, 8, 16))


def test_a_copy_of_the_model_is_not_monitored(tmp_path: Path) -> None:
    """A copy for averaged weights; and a module saved as a whole."""
    model, criterion = Segmenter(), nn.Module()
    model.criterion, criterion.matcher = criterion, nn.Identity()
    monitor = mpdiag.LayerMonitor(model, every=1)
    monitor.start_evaluation()
    images = torch.ones(1, 3, 8, 16)
    with mpdiag.record(model) as recording:
        copied = copy.deepcopy(model)
        torch.save(model, tmp_path / "model.pth")
        loaded = torch.load(tmp_path / "model.pth", weights_only=False)
        with torch.no_grad():
            for other in (copied, loaded):
                other.masks.fill_(torch.nan)  # an error in a module that is monitored
                other(images)
                other.criterion.matcher(other.masks)
        assert "mask_logits" not in recording and not monitor.is_pending
        model(images)
        assert len(recording.layers("mask_logits")) == 2 and monitor.is_pending
    monitor.close()


def test_a_step_that_is_not_measured_names_no_layer_that_is_unknown() -> None:
    """The calls of the matcher of a model with hook points have no known order."""
    model, criterion = Segmenter(), nn.Module()
    model.criterion, criterion.matcher = criterion, nn.Identity()
    monitor = mpdiag.LayerMonitor(model, every=100)
    masks = torch.zeros(2, 3, 4, 4)
    masks[1, 2] = torch.inf
    criterion.matcher(torch.zeros(2, 3, 4, 4))
    message = r"^mask prediction \(1 of 3 queries\) of image 1 of the batch is not finite"
    with pytest.raises(NonFiniteError, match=message):
        criterion.matcher(masks)
    monitor.close()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda: mpdiag.LayerMonitor(Segmenter(), every=0), ConfigError, "every = 0"),
        (lambda: mpdiag.LayerMonitor(nn.Linear(1, 1)), RecordingError, "no known family"),
        (
            lambda: mpdiag.LayerMonitor(Segmenter(), every=1).step(),
            RecordingError,
            "step 1: no forward pass",
        ),
        (lambda: mpdiag.LayerMonitor(Segmenter()).write_run("x"), RunError, "x: no held-out image"),
    ],
)
def test_errors_say_what_is_wrong(
    change: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        change()


def test_a_compiled_model_is_an_error_also_if_it_is_compiled_later() -> None:
    model = Segmenter()
    mpdiag.LayerMonitor(model, every=1)
    vars(model)["_compiled_call_impl"] = model._call_impl  # as by model.compile()
    with pytest.raises(RecordingError, match=r"compiled by torch\.compile"):
        mpdiag.LayerMonitor(model)
    with pytest.raises(RecordingError, match=r"compiled by torch\.compile"):
        model._call_impl(torch.ones(1, 3, 8, 16))


def test_targets_of_another_batch_are_an_error() -> None:
    model = Segmenter()
    monitor = mpdiag.LayerMonitor(model, every=1)
    model(torch.ones(1, 3, 8, 16))
    with pytest.raises(DataError, match="GT is that of 2 images, but the model predicted 1"):
        monitor.step([left_and_right(), no_object()])
