"""mpdiag's model in detectron2's trainer, against mpdiag's trainer and the official model."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import mpdiag
from mpdiag.checkpoints import load_checkpoint, load_model, save_checkpoint
from mpdiag.checkpoints.detectron2_yaml import read_detectron2_config
from mpdiag.checkpoints.official_keys import to_official
from mpdiag.cli import main
from mpdiag.config import AugmentConfig, DataConfig
from mpdiag.data import Sample, generate_synthetic, load_dataset
from mpdiag.errors import ConfigError, DataError
from trainers.distributed import DistributedContext
from trainers.loop import resolve
from trainers.recipe import load_recipe
from trainers.trainer import Trainer

TRAIN, VAL = "mpdiag_test_train", "mpdiag_test_val"
YAML = """
MODEL:
  META_ARCHITECTURE: MaskFormer
  DEVICE: cpu
  BACKBONE: {FREEZE_AT: 0, NAME: build_resnet_backbone}
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS:
    DEPTH: 50
    STEM_TYPE: basic
    STEM_OUT_CHANNELS: 16
    STRIDE_IN_1X1: False
    WIDTH_PER_GROUP: 8
    RES2_OUT_CHANNELS: 32
    OUT_FEATURES: [res2, res3, res4, res5]
  SEM_SEG_HEAD:
    NAME: MaskFormerHead
    NUM_CLASSES: 7
    CONVS_DIM: 32
    MASK_DIM: 16
    NORM: GN
    IN_FEATURES: [res2, res3, res4, res5]
    PIXEL_DECODER_NAME: MSDeformAttnPixelDecoder
    TRANSFORMER_ENC_LAYERS: 1
  MASK_FORMER:
    TRANSFORMER_IN_FEATURE: multi_scale_pixel_decoder
    HIDDEN_DIM: 32
    DIM_FEEDFORWARD: 32
    DROPOUT: 0.0
    DEC_LAYERS: 5
    NUM_OBJECT_QUERIES: 6
    TRAIN_NUM_POINTS: 64
    CLASS_WEIGHT: 2.0
    MASK_WEIGHT: 5.0
    DICE_WEIGHT: 5.0
    TEST: {SEMANTIC_ON: False, INSTANCE_ON: True}
INPUT:
  FORMAT: RGB
  DATASET_MAPPER_NAME: coco_instance_lsj
  IMAGE_SIZE: 64
  MIN_SIZE_TEST: 64
DATASETS: {TRAIN: [mpdiag_test_train], TEST: [mpdiag_test_val]}
DATALOADER: {NUM_WORKERS: 0}
SOLVER:
  IMS_PER_BATCH: 2
  MAX_ITER: 3
  STEPS: [2]
  WARMUP_FACTOR: 1.0
  BASE_LR: 0.001
  CHECKPOINT_PERIOD: 2
  CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: full_model, CLIP_VALUE: 0.01}
SEED: 11
VERSION: 2
"""
PILOTED = (
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME",
    "MultiScaleMaskedTransformerDecoderMaskDN",
    "MODEL.MASK_FORMER.DN_MODE",
    "points",
    "MODEL.MASK_FORMER.ALL_LY_DN",
    "True",
    "MODEL.DN.NUM_DN",
    "100",
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=4, val=3, size=64)
    return root


@pytest.fixture(autouse=True)
def registered(detectron2: ModuleType, scenes: Path) -> Iterator[None]:
    data = importlib.import_module("detectron2.data")
    register = importlib.import_module("detectron2.data.datasets").register_coco_instances
    for name, split in ((TRAIN, "train"), (VAL, "val")):
        file = scenes / "synthetic" / "annotations" / f"instances_{split}.json"
        register(name, {}, str(file), str(scenes / "synthetic" / split))
    yield
    for name in (TRAIN, VAL):
        data.DatasetCatalog.remove(name)
        data.MetadataCatalog.remove(name)


@pytest.fixture
def bridge(detectron2: ModuleType) -> ModuleType:
    return importlib.import_module("trainers.detectron2")


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def build(bridge: ModuleType, yaml: Path) -> Callable[..., Any]:
    """Return a function that builds the meta-architecture from the YAML and arguments."""

    def build(*arguments: str) -> Any:
        cfg = importlib.import_module("trainers.detectron2.config").read_cfg(yaml, arguments)
        torch.manual_seed(3)
        return importlib.import_module("detectron2.modeling").build_model(cfg)

    return build


def batch(scenes: Path) -> list[Sample]:
    data = load_dataset("synthetic", root=scenes, split="train")
    return [data[0], data[1]]


def as_inputs(samples: list[Sample]) -> list[dict[str, Any]]:
    instances_from_sample = importlib.import_module(
        "trainers.detectron2.structures"
    ).instances_from_sample
    return [
        {"image": sample.image, "instances": instances_from_sample(sample)} for sample in samples
    ]


@pytest.mark.parametrize(
    "arguments", [(), PILOTED, (*PILOTED, "pilot.noise=shift", "pilot.layers=2")]
)
def test_step_equals_mpdiags_trainer(
    build: Callable[..., Any], scenes: Path, arguments: tuple[str, ...]
) -> None:
    model, samples = build(*arguments).train(), batch(scenes)
    classes = load_dataset("synthetic", root=scenes).classes
    config = model.recipe.model_copy(update={"seed": 11})
    own = Trainer(resolve(config, len(classes), 4), classes, DistributedContext.initialize())
    own.model.load_state_dict(model.model.state_dict())
    expected = own._backward(samples, range(2))
    losses = model(as_inputs(samples))
    sum(losses.values()).backward()
    assert losses.keys() == expected.keys()
    assert any("_dn" in name for name in losses) == bool(arguments)
    for name, loss in losses.items():
        assert torch.equal(loss.detach(), expected[name]), name
    gradients = dict(own.model.named_parameters())
    compared = 0
    for name, parameter in model.model.named_parameters():
        if gradients[name].grad is None:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, gradients[name].grad), name
            compared += 1
    assert compared > 100


def test_autocast_applies_to_the_model_only(build: Callable[..., Any], scenes: Path) -> None:
    model, samples = build(*PILOTED).train(), batch(scenes)
    classes = load_dataset("synthetic", root=scenes).classes
    config = model.recipe.model_copy(update={"seed": 11, "precision": "bf16"})
    own = Trainer(resolve(config, len(classes), 4), classes, DistributedContext.initialize())
    own.model.load_state_dict(model.model.state_dict())
    expected = own._backward(samples, range(2))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(as_inputs(samples))
    for name, loss in losses.items():
        assert loss.dtype == torch.float32 and torch.equal(loss.detach(), expected[name]), name


def test_two_processes_of_launch_take_the_same_step(
    build: Callable[..., Any], yaml: Path, scenes: Path, tmp_path: Path
) -> None:
    model, samples = build(*PILOTED).train(), batch(scenes)
    torch.save(as_inputs(samples), tmp_path / "inputs.pt")
    script = Path(__file__).parent / "take_step.py"
    command = [sys.executable, "-W", "ignore", str(script), str(yaml), str(tmp_path), *PILOTED]
    subprocess.run(command, check=True, timeout=200, capture_output=True)
    sum(model(as_inputs(samples)).values()).backward()
    found = torch.load(tmp_path / "gradients.pt")
    own = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    assert found.keys() == own.keys()
    difference, whole = (
        torch.cat([grads[name].flatten() for name in own])
        for grads in ({name: found[name] - own[name] for name in own}, own)
    )
    assert difference.norm() < 1e-4 * whole.norm()  # sums have another order


def test_random_numbers_depend_on_the_step(build: Callable[..., Any], scenes: Path) -> None:
    model, inputs = build().train(), as_inputs(batch(scenes))
    first, second = model(inputs), model(inputs)
    assert not torch.equal(first["loss_mask"], second["loss_mask"])
    storage = importlib.import_module("detectron2.utils.events").EventStorage
    with storage(0):
        assert torch.equal(model(inputs)["loss_mask"], first["loss_mask"])


def test_state_dict_is_the_official_one(
    build: Callable[..., Any], tmp_path: Path, scenes: Path
) -> None:
    model = build()
    state = model.state_dict()
    assert set(state) == {to_official(x) for x in model.model.state_dict()} | {
        "criterion.empty_weight"
    }
    assert state._metadata["sem_seg_head"] == {"version": 2}
    save_checkpoint(tmp_path / "ours.pth", model.model)
    other = build("SEED", "5")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(state)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[name])
    missing = state.pop("sem_seg_head.predictor.query_feat.weight")
    state["sem_seg_head.predictor.static_query.weight"] = missing  # version 1
    other.load_state_dict(state)
    del state["sem_seg_head.predictor.static_query.weight"], state["criterion.empty_weight"]
    state["roi_heads.weight"] = missing
    found = other.load_state_dict(state, strict=False)
    assert found.missing_keys == ["sem_seg_head.predictor.query_feat.weight"]
    assert found.unexpected_keys == ["roi_heads.weight"]


def test_training_evaluation_and_checkpoints(
    bridge: ModuleType, yaml: Path, tmp_path: Path, scenes: Path
) -> None:
    out = tmp_path / "out"
    assert bridge.run(yaml, PILOTED, output=out) == out
    logged = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert {"loss_ce", "loss_mask_dn_0", "segm/AP", "bbox/AP"} <= set().union(*logged)
    loaded = load_checkpoint(out / "model_final.pth")  # with config.yaml beside it
    assert loaded.config_path == out / "config.yaml"
    assert loaded.model.config.label_embedding and loaded.model.config.num_classes == 7
    assert loaded.training_info is not None and loaded.training_info.loss.num_points == 64
    # Resume: detectron2 restores optimizer, schedule and step.
    bridge.run(yaml, (*PILOTED, "SOLVER.MAX_ITER", "4"), output=out, resume=True)
    after = load_model(out / "model_final.pth")
    changed = [not torch.equal(a, b) for a, b in zip(
        after.state_dict().values(), loaded.model.state_dict().values(), strict=True)]  # fmt: skip
    assert any(changed)
    results = bridge.run(
        yaml,
        (*PILOTED, "MODEL.WEIGHTS", str(out / "model_final.pth")),
        output=tmp_path / "evaluated",
        eval_only=True,
    )
    assert (results / "inference" / "coco_instances_results.json").is_file()
    summary = mpdiag.analyze(out / "model_final.pth", VAL, tmp_path / "run", save_masks="none")
    assert summary["num_images"] == 3 and len(summary["layers"]) == 4


def test_command(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", "method=fixed-matching"]
    command = ["train", "--engine", "detectron2", "--config-file", str(yaml), *arguments]
    monkeypatch.setattr(sys, "argv", ["mpdiag", *command, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    kept = read_detectron2_config(tmp_path / "out" / "config.yaml")
    assert kept["MPDIAG"]["SETTINGS"] == ["method=fixed-matching"]
    assert load_recipe(tmp_path / "out" / "config.yaml").method == "fixed-matching"


def test_both_trainers_load_each_others_checkpoints(
    bridge: ModuleType, build: Callable[..., Any], tmp_path: Path, scenes: Path
) -> None:
    checkpointer = importlib.import_module("detectron2.checkpoint").DetectionCheckpointer
    model = build()
    checkpointer(model, str(tmp_path)).save("bridge", iteration=3)
    classes = load_dataset("synthetic", root=scenes).classes
    config = model.recipe.model_copy(update={"init": str(tmp_path / "bridge.pth")})
    own = Trainer(resolve(config, len(classes), 4), classes, DistributedContext.initialize())
    for name, tensor in own.model.state_dict().items():
        assert torch.equal(tensor, model.model.state_dict()[name])
    with torch.no_grad():
        own.model.decoder.query_feat.weight.add_(1)
    own.save(tmp_path / "last.pth")
    checkpointer(model, str(tmp_path)).load(str(tmp_path / "last.pth"), checkpointables=[])
    for name, tensor in own.model.state_dict().items():
        assert torch.equal(tensor, model.model.state_dict()[name])


def test_results_equal_the_official_model(
    official_config: Any, family: str, bridge: ModuleType, inputs: list[dict[str, Any]]
) -> None:
    """Instances, panoptic segments and class scores, with the same weights and images."""
    data = importlib.import_module("detectron2.data")
    data.MetadataCatalog.get("mpdiag_test_nothing").thing_dataset_id_to_contiguous_id = {1: 0, 2: 1}
    cfg = official_config.clone()
    build_model = importlib.import_module("detectron2.modeling").build_model
    test = cfg.MODEL.MASK_FORMER.TEST
    test.PANOPTIC_ON = test.INSTANCE_ON = test.SEMANTIC_ON = True
    test.OBJECT_MASK_THRESHOLD, test.OVERLAP_THRESHOLD = 0.2, 0.3
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.INPUT.FORMAT, cfg.INPUT.DATASET_MAPPER_NAME = "RGB", "coco_panoptic_lsj"
    torch.manual_seed(0)
    official = build_model(cfg).eval()
    with torch.no_grad():  # so that there are detections, with masks of all sizes
        official.sem_seg_head.predictor.class_embed.bias[-1] -= 3
        official.sem_seg_head.pixel_decoder.mask_features.weight.mul_(4)
    bridge.add_mpdiag_config(cfg)
    cfg.MODEL.RESNETS.STEM_TYPE = "basic"
    cfg.MODEL.META_ARCHITECTURE = bridge.META_ARCHITECTURE
    ours = build_model(cfg).eval()
    ours.load_state_dict(official.state_dict())
    official.load_state_dict(ours.state_dict())
    sized = [one | {"height": 50 + 30 * k, "width": 90} for k, one in enumerate(inputs)]
    with torch.no_grad():
        for found, expected in zip(ours(sized), official(sized), strict=True):
            torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], rtol=1e-4, atol=1e-5)
            mine, theirs = found["instances"], expected["instances"]
            order = theirs.scores.argsort(descending=True)
            torch.testing.assert_close(mine.scores, theirs.scores[order], rtol=1e-4, atol=1e-5)
            assert mine.pred_classes.tolist() == theirs.pred_classes[order].tolist()
            assert (mine.pred_masks != theirs.pred_masks[order].bool()).float().mean() < 1e-3
            ids, segments = found["panoptic_seg"]
            assert segments == expected["panoptic_seg"][1] and segments
            assert (ids != expected["panoptic_seg"][0]).float().mean() < 1e-3


def test_mapper_reads_and_augments(bridge: ModuleType, scenes: Path) -> None:
    records = importlib.import_module("detectron2.data").DatasetCatalog.get(TRAIN)
    sample_of = importlib.import_module("trainers.detectron2.structures").sample_of
    own = load_dataset("synthetic", root=scenes, split="train")
    plain = bridge.TrainingMapper(TRAIN, DataConfig(augment=AugmentConfig(flip=False)))
    for index, record in enumerate(records):
        mapped, expected = plain(record), own[index]
        assert mapped["image_id"] == expected.image_id
        assert (mapped["height"], mapped["width"]) == expected.original_size
        found = sample_of(mapped)
        assert torch.equal(found.image, expected.image)
        assert torch.equal(found.masks, expected.masks)
        assert torch.equal(found.labels, expected.labels)
    polygon = records[0]["annotations"][0] | {"segmentation": [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]}
    turned = {"height": records[0]["height"] + 1, "annotations": [polygon]}
    with pytest.raises(DataError, match=f"is .* but {TRAIN} lists it as"):
        plain(records[0] | turned)
    jitter = AugmentConfig(scale_jitter=(0.5, 2.0), crop=(48, 80))
    jittered = bridge.TrainingMapper(TRAIN, DataConfig(augment=jitter))
    torch.manual_seed(0)
    first, second = jittered(records[0])["image"], jittered(records[0])["image"]
    assert first.shape == second.shape == (3, 48, 80) and not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(jittered(records[0])["image"], first)


def test_structures_are_converted(bridge: ModuleType, scenes: Path) -> None:
    convert = importlib.import_module("trainers.detectron2.structures")
    structures = importlib.import_module("detectron2.structures")
    sample = batch(scenes)[0]
    again = convert.sample_of(
        {"image": sample.image, "instances": convert.instances_from_sample(sample)}
    )
    assert torch.equal(again.masks, sample.masks) and torch.equal(again.labels, sample.labels)
    polygons = structures.Instances((8, 8))
    polygons.gt_classes = torch.tensor([1])
    polygons.gt_masks = structures.PolygonMasks(
        [[torch.tensor([1.0, 1, 5, 1, 5, 4, 1, 4]).numpy()]]
    )
    drawn = convert.sample_of({"image": torch.zeros(3, 8, 8), "instances": polygons}).masks
    assert drawn[0, 1:4, 1:5].all() and drawn.sum() == 12
    found = mpdiag.models.Instances(
        scores=torch.tensor([0.9, 0.4]),
        labels=torch.tensor([2, 0]),
        queries=torch.tensor([3, 1]),
        query_masks=sample.masks[:2],
        rows=torch.arange(2),
    )
    result = convert.to_detectron2(found)
    x0, y0, x1, y1 = result.pred_boxes.tensor[0].tolist()
    rows, columns = sample.masks[0].nonzero().unbind(1)
    assert [x0, y0, x1, y1] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert result.scores.tolist() == found.scores.tolist()
    assert result.pred_classes.tolist() == [2, 0] and torch.equal(result.pred_masks, found.masks)
    segments = mpdiag.models.PanopticSegments(
        torch.tensor([[0, 1], [2, 2]], dtype=torch.int32), torch.tensor([1, 0])
    )
    ids, listed = convert.panoptic_to_detectron2(segments, [True, False])
    assert listed == [
        {"id": 1, "category_id": 1, "isthing": False},
        {"id": 2, "category_id": 0, "isthing": True},
    ]
    assert torch.equal(ids, segments.ids)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("DATASETS.TRAIN", "('nowhere',)"), DataError, "nowhere: not registered in detectron2's"),
        (
            ("MPDIAG.IMPORTS", "('no_such_module',)"),
            DataError,
            "no_such_module: cannot be imported",
        ),
        (
            ("schedule.iterations=5",),
            ConfigError,
            "use detectron2's key",
        ),
        (("method=per-pixel",), ConfigError, "can't hold; train it with --engine mpdiag"),
        (("MODEL.MASK_FORMER.PRE_NORM", "True"), ConfigError, "PRE_NORM"),
        (("SOLVER.MAX_ITER", "many"), ConfigError, "tiny.yaml: detectron2 can't read it"),
    ],
)
def test_errors(
    bridge: ModuleType, yaml: Path, tmp_path: Path, arguments: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        bridge.run(yaml, arguments, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "on", "expected"),
    [
        ("coco", "INSTANCE", ["COCOEvaluator"]),
        ("lvis", "INSTANCE", ["LVISEvaluator"]),
        ("sem_seg", "SEMANTIC", ["SemSegEvaluator"]),
        ("ade20k_panoptic_seg", "PANOPTIC SEMANTIC", ["COCOPanopticEvaluator", "SemSegEvaluator"]),
        ("coco_panoptic_seg", "PANOPTIC INSTANCE", ["COCOPanopticEvaluator", "COCOEvaluator"]),
        ("cityscapes_instance", "INSTANCE", ["CityscapesInstanceEvaluator"]),
        (
            "cityscapes_panoptic_seg",
            "PANOPTIC INSTANCE SEMANTIC",
            ["COCOPanopticEvaluator", "CityscapesInstanceEvaluator", "CityscapesSemSegEvaluator"],
        ),
    ],
)
def test_evaluators_equal_those_of_the_official_scripts(
    bridge: ModuleType,
    yaml: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    on: str,
    expected: Any,
) -> None:
    cfg = importlib.import_module("trainers.detectron2.config").read_cfg(
        yaml,
        [
            argument
            for name in ("INSTANCE", "PANOPTIC", "SEMANTIC")
            for argument in (f"MODEL.MASK_FORMER.TEST.{name}_ON", str(name in on.split()))
        ],
    )
    built: list[str] = []
    module = importlib.import_module("detectron2.evaluation")
    for name in [x for x in dir(module) if x.endswith("Evaluator") and x != "DatasetEvaluator"]:
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: built.append(name))
    data = importlib.import_module("detectron2.data")
    data.MetadataCatalog[VAL] = data.catalog.Metadata(name=VAL, evaluator_type=kind)
    bridge.Detectron2Trainer.build_evaluator(cfg, VAL)
    assert built == expected
    data.MetadataCatalog[VAL] = data.catalog.Metadata(name=VAL, evaluator_type="pascal_voc")
    with pytest.raises(DataError, match="no evaluator for evaluator_type pascal_voc"):
        bridge.Detectron2Trainer.build_evaluator(cfg, VAL)


def test_loader_without_masks_is_refused(build: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="the loader gives no `instances`"):
        build().train()([{"image": torch.zeros(3, 64, 64)}])


def test_recording(build: Callable[..., Any], scenes: Path) -> None:
    model: nn.Module = build(*PILOTED).train()
    with mpdiag.record(model) as recording:
        model(as_inputs(batch(scenes)))
    assert recording.mask_logits.shape == (5, 2, 6, 16, 16)
    assert recording.piloted_mask_logits.shape[:2] == (5, 2)
