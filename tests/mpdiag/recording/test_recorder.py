"""The recorder reads every layer, does not change outputs, and removes its hooks."""

import copy
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from mpdiag.config import PilotConfig
from mpdiag.errors import RecordingError
from mpdiag.matching import Target
from mpdiag.models import Mask2Former, build_pilot_inputs
from mpdiag.recording import (
    CANONICAL_NAMES,
    Family,
    HookPoint,
    HookSpec,
    HookSpecs,
    Recorder,
    Recording,
    families,
    first_output,
    known_families,
    record,
    register,
    select_names,
)


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_outputs_are_bit_equal_and_recorded(
    small_model: Mask2Former, images: list[torch.Tensor]
) -> None:
    with torch.no_grad():
        plain = small_model(images).matching
        with record(small_model) as recording:
            hooked = small_model(images).matching
    assert torch.equal(plain.mask_logits, hooked.mask_logits)
    assert torch.equal(recording.mask_logits, plain.mask_logits)
    assert torch.equal(recording.class_logits, plain.class_logits)
    assert recording.query.shape == (5, 2, 6, 32)
    assert [tuple(x.shape) for x in recording.attention_mask] == [
        (2, 6, 4), (2, 6, 16), (2, 6, 64), (2, 6, 4)
    ]  # fmt: skip
    assert "mask_logits" in repr(recording)
    assert hooks(small_model) == 0


def test_the_mp_part_has_piloted_names(
    small_model: Mask2Former, images: list[torch.Tensor], targets: list[Target]
) -> None:
    pilot = build_pilot_inputs(
        targets,
        PilotConfig(num_queries=6),
        layers=4,
        num_classes=3,
        generators=[torch.Generator() for _ in targets],
    )
    with torch.no_grad(), record(small_model, only=["*_logits"]) as recording:
        output = small_model(images, pilot)
    assert torch.equal(recording.piloted_mask_logits, output.piloted.mask_logits)
    assert torch.equal(recording.mask_logits, output.matching.mask_logits)
    assert "query" not in recording
    with pytest.raises(RecordingError, match=r'not requested; .*only=\["\*_logits", "query"\]'):
        _ = recording.query
    with pytest.raises(
        RecordingError, match="assignment: not recorded; mpdiag Mask2Former does not"
    ):
        _ = recording.assignment


def test_only_accepts_a_single_name(small_model: Mask2Former, images: list[torch.Tensor]) -> None:
    with torch.no_grad(), record(small_model, only="mask_logits") as recording:
        small_model(images)
    assert "mask_logits" in recording and "class_logits" not in recording


def test_a_path_is_rejected() -> None:
    with pytest.raises(RecordingError, match=r"str: not a torch.nn.Module; .*mpdiag\.load_model"):
        record("model_final.pth").__enter__()  # type: ignore[arg-type]


def test_hooks_are_removed_after_an_exception(small_model: Mask2Former) -> None:
    with pytest.raises(ZeroDivisionError), record(small_model):
        assert hooks(small_model) > 0
        raise ZeroDivisionError
    assert hooks(small_model) == 0


def test_the_last_pass_replaces_earlier_ones(
    small_model: Mask2Former, images: list[torch.Tensor]
) -> None:
    with torch.no_grad(), record(small_model, only=["mask_logits"]) as recording:
        small_model(images)
        last = small_model(images[:1]).matching.mask_logits
    assert torch.equal(recording.mask_logits, last)


def test_masks_are_not_copied(small_model: Mask2Former, images: list[torch.Tensor]) -> None:
    with torch.no_grad(), record(small_model) as recording:
        made = small_model(images).matching.mask_logits
        assert recording.mask_logits.data_ptr() == made.data_ptr()
        assert torch.equal(recording.mask_logits, made)


def test_layers_apart_in_memory_are_stacked_in_order() -> None:
    x = torch.arange(24.0).view(3, 1, 2, 2, 2)
    for order in ([0, 1, 2], [2, 0, 1], [0, 2, 1], [2, 1, 0], [1, 1], [2]):
        recording = Recording("ours", [], ["mask_logits"])
        recording.replace({"mask_logits": [x[index] for index in order]})
        assert torch.equal(recording.mask_logits, x[order])


def test_a_hook_on_a_hook_point_can_replace_a_tensor(
    small_model: Mask2Former, images: list[torch.Tensor]
) -> None:
    point = small_model.decoder.hook_points.mask_logits
    handle = point.register_forward_hook(lambda *_: torch.zeros(2, 6, 16, 16))
    assert not small_model(images).matching.mask_logits.any()
    handle.remove()
    assert small_model(images).matching.mask_logits.any()


def test_error_messages(small_model: Mask2Former) -> None:
    unknown = r"Sequential \(0: Linear\): no known family.*mpdiag hook points, .*own_model"
    with (
        pytest.raises(RecordingError, match=unknown),
        record(torch.nn.Sequential(torch.nn.Linear(1, 1))),
    ):
        pass
    with (
        pytest.raises(RecordingError, match="'masks': matches no tensor name"),
        record(small_model, only=["masks"]),
    ):
        pass
    missing = pytest.raises(RecordingError, match="run the model inside")
    with record(small_model) as recording, missing:
        _ = recording.mask_logits
    with pytest.raises(AttributeError, match="it has query"):
        _ = recording.masks


def test_a_name_that_the_family_does_not_have_is_rejected() -> None:
    model = torch.nn.Module()
    model.mask_logits = HookPoint()
    with (
        pytest.raises(RecordingError, match=r"query: .* does not have it; it has mask_logits"),
        record(model, only=["query", "mask_*"]),
    ):
        pass
    assert hooks(model) == 0


def test_a_model_inside_another_is_found(
    small_model: Mask2Former, images: list[torch.Tensor]
) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self, *models: torch.nn.Module) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleList(models)

        def forward(self, images: list[torch.Tensor]) -> object:
            return [model(images) for model in self.inner]

    model = Wrapper(small_model)
    with torch.no_grad(), record(model) as recording:
        model(images)
        whole = small_model(images).matching
    assert torch.equal(recording.mask_logits, whole.mask_logits)
    twice = Wrapper(small_model, copy.deepcopy(small_model))
    several = r"contains 2 models.*inner\.0 \(mpdiag Mask2Former\)"
    with pytest.raises(RecordingError, match=several), record(twice):
        pass


def test_two_hook_points_of_one_name_are_rejected() -> None:
    model = torch.nn.ModuleList([torch.nn.Module(), torch.nn.Module()])
    model[0].query, model[1].query = HookPoint(), HookPoint()
    with pytest.raises(RecordingError, match="2 hook points called query"), record(model):
        pass


def test_a_failed_pass_records_nothing(
    small_model: Mask2Former, images: list[torch.Tensor]
) -> None:
    with record(small_model) as recording:
        small_model(images)
        with pytest.raises(AttributeError):
            small_model(images, pilot=object())
        assert "mask_logits" not in recording


@pytest.mark.usefixtures("registry")
def test_hooks_that_are_removed_in_a_pass_keep_no_graph() -> None:
    class Pair(Family):
        name = "pair"

        def matches(self, model: torch.nn.Module) -> bool:
            return isinstance(model, torch.nn.Sequential)

        def hooks(self, model: Any) -> HookSpecs:
            query = HookSpec([model[1]], 1, first_output, requires=["features"])
            return {"features": HookSpec([model[0]], 1, first_output), "query": query}

    register(Pair())
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), torch.nn.Linear(2, 1))
    recorder = Recorder(model)
    kept = []
    model[0].register_forward_hook(lambda *call: kept.append(weakref.ref(call[2])))
    recorder.attach()
    recorder.begin()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.zeros(1, 1, 1))
    recorder.remove()
    assert kept[0]() is None


@pytest.mark.parametrize("how", ["wrapped", "in place", "forward", "a part"])
def test_a_compiled_model_is_rejected(small_model: Mask2Former, how: str) -> None:
    """torch.compile only marks the model here; it compiles at the first call."""
    model: torch.nn.Module = small_model
    if how == "wrapped":
        model = torch.compile(small_model)  # type: ignore[assignment]
    elif how == "in place":
        model.compile()
    elif how == "forward":
        model.forward = torch.compile(model.forward)  # type: ignore[method-assign]
    else:
        small_model.decoder.layers[0].compile()
    with pytest.raises(RecordingError, match=r"torch\.compile"), record(model):
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo registrations at the end of a test."""
    monkeypatch.setattr("mpdiag.recording.family._FAMILIES", known_families())


@pytest.mark.usefixtures("registry")
def test_an_unexpected_call_is_reported() -> None:
    class Other(Family):
        name = "other"

        def matches(self, model: torch.nn.Module) -> bool:
            return isinstance(model, torch.nn.Identity)

        def hooks(self, model: torch.nn.Module) -> HookSpecs:
            return {"query": HookSpec([model], 1, lambda call: call.kwargs["queries"])}

    known = known_families()
    register(Other())
    model = torch.nn.Identity()
    with (
        record(model),
        pytest.raises(RecordingError, match="query: can't be read, because Identity is not called"),
    ):
        model(torch.zeros(1))
    register(Other())
    assert [family.name for family in known_families()] == ["other", *(f.name for f in known)]


@pytest.mark.usefixtures("registry")
def test_a_hook_without_a_canonical_name_is_rejected() -> None:
    class Misnamed(Family):
        name = "misnamed"

        def matches(self, model: torch.nn.Module) -> bool:
            return isinstance(model, torch.nn.Identity)

        def hooks(self, model: torch.nn.Module) -> HookSpecs:
            return {"masks": HookSpec([model], 1, lambda call: call.output)}

    with pytest.raises(RecordingError, match="register an instance"):
        register(Misnamed)
    register(Misnamed())
    message = r"misnamed: hook 'masks' has no canonical name.* mask_logits"
    with pytest.raises(RecordingError, match=message), record(torch.nn.Identity()):
        pass


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(3, 2, 5, 4, 6), r"a tensor \(3, 2, 5, 4, 6\).* each \(B, N, h, w\).* list of"),
        ([torch.zeros(2, 5, 24)] * 3, r"a tensor \(2, 5, 24\).* each \(B, N, h, w\)"),
        ([None] * 3, "mask_logits: other gives NoneType, but it must be layers"),
        ([torch.zeros(2, 4, 6, 5)] * 3, r"2 images of 5 queries, .* 2 images of 4 queries; give"),
        ([torch.zeros(5, 2, 4, 6)] * 3, r"2 images of 5 queries, .* 5 images of 2 queries; give"),
    ],
)
def test_tensors_in_another_layout_are_an_error(masks: Any, message: str) -> None:
    class Other(Family):
        name = "other"

        def matches(self, model: torch.nn.Module) -> bool:
            return isinstance(model, torch.nn.Identity)

        def hooks(self, model: torch.nn.Module) -> HookSpecs:
            classes = tuple(torch.zeros(3, 2, 5, 8))  # a tuple is a list of layers, too
            return {
                "class_logits": HookSpec([model], 3, lambda call: classes),
                "mask_logits": HookSpec([model], None, lambda call: masks),
            }

    register(Other())
    model = torch.nn.Identity()
    with record(model) as recording, pytest.raises(RecordingError, match=message):
        model(torch.zeros(1))
    assert "mask_logits" not in recording


def test_a_module_in_place_of_a_list_of_modules_is_rejected() -> None:
    heads = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with pytest.raises(RecordingError, match=r"HookSpec of Sequential: .* give \[module\]"):
        HookSpec(heads, 1, first_output)
    HookSpec(torch.nn.ModuleList(heads), 2, first_output)


def test_a_hook_point_takes_a_list_of_layers() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask_logits = HookPoint()

        def forward(self, x: torch.Tensor) -> Any:
            return self.mask_logits([x, x + 1, x + 2])

    model = Own()
    with record(model) as recording:
        model(torch.zeros(1, 2, 4, 4))
    assert recording.mask_logits[:, 0, 0, 0, 0].tolist() == [0, 1, 2]
    model.masks_logits = HookPoint()
    with pytest.raises(
        RecordingError, match=r"hook point masks_logits: .* one of query, class_log"
    ):
        Recorder(model)


def test_hook_points_suffice_for_a_custom_model() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask_logits = HookPoint()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = self.mask_logits(x + 1)
            return x

    model = Own()
    with record(model) as recording:
        model(torch.zeros(1, 2, 4, 4))
    assert recording.mask_logits[:, 0, 0, 0, 0].tolist() == [1, 2, 3]


def test_names_by_pattern() -> None:
    piloted = [name for name in CANONICAL_NAMES if name.startswith("piloted_")]
    assert select_names(["piloted_*"]) == piloted
    assert select_names() == list(CANONICAL_NAMES)


FAMILY_FILE = """
from mpdiag.recording import Family, HookSpec, first_output

class EchoFamily(Family):
    name = "echo"
    instance_rule = "detr"

    def matches(self, model):
        return type(model).__name__ == "Identity"

    def hooks(self, model):
        return {"mask_logits": HookSpec([model], 1, first_output)}
"""


@pytest.mark.usefixtures("registry")
def test_a_new_file_in_the_families_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echo.py").write_text(FAMILY_FILE)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    found = families.built_in_families()
    monkeypatch.delitem(sys.modules, "mpdiag.recording.families.echo")
    names = [family.name for family in found]
    assert sorted(names) == sorted(["echo", *(family.name for family in known_families())])
    register(found[names.index("echo")])
    model = torch.nn.Identity()
    with record(model) as recording:
        model(torch.ones(1, 2, 3, 3))
    assert recording.family == "echo" and recording.mask_logits.shape == (1, 1, 2, 3, 3)
