"""One model in several formats, analysed by mpdiag, by transformers, from the hub, as a module."""

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
import torch

import mpdiag
from mpdiag.checkpoints import load_model, save_checkpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig
from mpdiag.data import SegmentationDataset, generate_synthetic, load_dataset
from mpdiag.errors import CheckpointError, ConfigError, DependencyError, MpdiagError
from mpdiag.models import Mask2Former
from mpdiag.store import Run

t = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    """Images of 64 x 64, because transformers stretches other sizes and mpdiag pads them."""
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=1, val=4, size=64)
    return load_dataset("synthetic", root=root)


@pytest.fixture(scope="module")
def model(dataset: SegmentationDataset) -> Mask2Former:
    torch.manual_seed(0)
    config = ModelConfig(
        num_classes=len(dataset.classes),
        backbone=BackboneConfig(name="resnet18", channels=(8, 8, 16, 16), stem_channels=8),
        hidden_dim=32,
        mask_dim=16,
        num_heads=4,
        encoder_layers=1,
        encoder_feedforward_dim=32,
        decoder_layers=3,
        feedforward_dim=32,
        num_queries=7,
    )
    model = Mask2Former(config).eval()
    with torch.no_grad():  # the masks of an untrained model are almost empty and equal
        model.decoder.query_feat.weight.mul_(3)
        model.pixel_decoder.mask_features.weight.mul_(8)
    return model


@pytest.fixture(scope="module")
def directory(
    tmp_path_factory: pytest.TempPathFactory, model: Mask2Former, dataset: SegmentationDataset
) -> Path:
    """Write the directory like `mpdiag convert --to transformers`."""
    directory = tmp_path_factory.mktemp("hf")
    names = [info.name for info in dataset.classes]
    training_info = TrainingInfo(LossConfig(mask_weight=4.0), 64, 96)
    write_transformers(directory, model, training_info, labels=names)
    return directory


def rows(path: Path) -> pd.DataFrame:
    return Run.open(path).query("SELECT * FROM queries ORDER BY image_id, layer, query")


def detections(path: Path) -> pd.DataFrame:
    return Run.open(path).query(
        "SELECT image_id, query, label, score FROM detections ORDER BY image_id, score DESC, query"
    )


def check_equal(found: Path, expected: Path) -> None:
    """Compare rows; logits differ in their last bits, but no logit is that close to 0."""
    ours, theirs = rows(expected), rows(found)
    exact = ["image_id", "layer", "query", "area", "matched_gt", "best_gt", "label"]
    pd.testing.assert_frame_equal(theirs[exact], ours[exact])
    close = ["iou_prev", "best_gt_iou", "score", "class_cost", "mask_cost", "dice_cost", "margin"]
    pd.testing.assert_frame_equal(theirs[close], ours[close], rtol=1e-4, atol=1e-5)
    assert ours["area"].nunique() > 20 and (ours["matched_gt"] >= 0).sum() > 10
    pd.testing.assert_frame_equal(detections(found), detections(expected), rtol=1e-4)


def test_a_directory_by_mpdiag_and_by_transformers(
    tmp_path: Path, directory: Path, dataset: SegmentationDataset
) -> None:
    first = mpdiag.analyze(directory, dataset, tmp_path / "own")
    second = mpdiag.analyze(directory, dataset, tmp_path / "theirs", engine="transformers")
    check_equal(tmp_path / "theirs", tmp_path / "own")
    assert second["ap"] == pytest.approx(first["ap"], abs=1e-6)
    headers = [Run.open(tmp_path / name).header for name in ("own", "theirs")]
    assert headers[0]["checkpoint"]["sha256"] == headers[1]["checkpoint"]["sha256"]
    for key in ("class_cost", "mask_cost", "dice_cost", "match_points", "inference"):
        assert headers[0]["settings"][key] == headers[1]["settings"][key]
    assert headers[1]["settings"]["mask_cost"] == 4
    assert headers[1]["settings"]["image_processor"]["size"]["shortest_edge"] == 64
    assert headers[1]["architecture"]["family"] == "transformers Mask2Former"
    assert headers[1]["versions"]["transformers"] == t.__version__
    assert "transformers" not in headers[0]["versions"]


def test_both_engines_intervene(
    tmp_path: Path, directory: Path, dataset: SegmentationDataset
) -> None:
    changes = ("attention=gt:1-2", "self-attention=none:3", "queries=none:0,4")
    options = {"intervene": changes, "limit": 2}
    mpdiag.analyze(directory, dataset, tmp_path / "own", **options)
    mpdiag.analyze(directory, dataset, tmp_path / "theirs", engine="transformers", **options)
    check_equal(tmp_path / "theirs", tmp_path / "own")
    found = rows(tmp_path / "theirs")
    silent = found["query"].isin([0, 4])
    assert found.loc[silent, "score"].max() < 1e-6 < found.loc[~silent, "score"].min()
    assert Run.open(tmp_path / "own").header["settings"]["intervene"] == [*changes]


def test_transformers_modules(
    tmp_path: Path, directory: Path, model: Mask2Former, dataset: SegmentationDataset
) -> None:
    mpdiag.analyze(directory, dataset, tmp_path / "theirs", engine="transformers")
    module = t.Mask2FormerForUniversalSegmentation.from_pretrained(directory)
    mpdiag.analyze(module, dataset, tmp_path / "module")  # with the processor of its directory
    pd.testing.assert_frame_equal(rows(tmp_path / "module"), rows(tmp_path / "theirs"))
    processor = t.AutoImageProcessor.from_pretrained(directory)
    module.config.name_or_path = ""
    mpdiag.analyze(module, dataset, tmp_path / "given", processor=processor)
    pd.testing.assert_frame_equal(rows(tmp_path / "given"), rows(tmp_path / "theirs"))
    with pytest.raises(CheckpointError, match="give processor="):
        mpdiag.analyze(module, dataset, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_module_of_mpdiag(
    tmp_path: Path, model: Mask2Former, dataset: SegmentationDataset
) -> None:
    """Without settings, images have the published size."""
    save_checkpoint(tmp_path / "model.pth", model)
    for given, name in ((tmp_path / "model.pth", "file"), (model, "own")):
        mpdiag.analyze(given, dataset, tmp_path / name, limit=1, evaluate=False, save_masks="none")
    pd.testing.assert_frame_equal(rows(tmp_path / "own"), rows(tmp_path / "file"))


def test_a_hub_id_equals_its_directory(
    tmp_path: Path, directory: Path, dataset: SegmentationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(directory))
    monkeypatch.chdir(tmp_path)
    for engine in ("mpdiag", "transformers"):
        mpdiag.analyze(directory, dataset, tmp_path / "here", engine=engine)
        mpdiag.analyze("owner/name", dataset, tmp_path / "there", engine=engine)
        pd.testing.assert_frame_equal(rows(tmp_path / "there"), rows(tmp_path / "here"))
        (tmp_path / "here").rename(tmp_path / f"here-{engine}")
        (tmp_path / "there").rename(tmp_path / f"there-{engine}")
    assert type(load_model("owner/name")) is Mask2Former


def test_both_engines_match_classes_by_name(
    tmp_path: Path, directory: Path, model: Mask2Former, dataset: SegmentationDataset
) -> None:
    names = [info.name for info in dataset.classes][::-1]
    other = Mask2Former(model.config).eval()
    state = model.state_dict()
    for name in ("decoder.class_embed.weight", "decoder.class_embed.bias"):
        state[name] = torch.cat([state[name][:-1].flip(0), state[name][-1:]])
    other.load_state_dict(state)
    (tmp_path / "hf").mkdir()
    training_info = TrainingInfo(LossConfig(mask_weight=4.0), 64, 96)
    write_transformers(tmp_path / "hf", other, training_info, labels=names)
    mpdiag.analyze(directory, dataset, tmp_path / "expected")
    for engine in ("mpdiag", "transformers"):
        mpdiag.analyze(tmp_path / "hf", dataset, tmp_path / engine, engine=engine)
        check_equal(tmp_path / engine, tmp_path / "expected")


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_errors_are_one_line_and_write_nothing(
    tmp_path: Path,
    model: Mask2Former,
    dataset: SegmentationDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = tmp_path / "hf"
    there.mkdir()
    write_transformers(there, model, labels=[info.name for info in dataset.classes])
    settings, images = (there / name for name in ("config.json", "preprocessor_config.json"))

    def refuses(kind: type[MpdiagError], message: str, given: Any = there, **more: Any) -> None:
        arguments = {"engine": "transformers", **more}
        with pytest.raises(kind, match=message) as caught:
            mpdiag.analyze(given, dataset, tmp_path / "run", **arguments)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    refuses(ConfigError, "--part piloted: works with models that mpdiag runs", part="piloted")
    refuses(ConfigError, "give layers in 1-", intervene=["attention=gt:99"])
    refuses(ConfigError, "has its own config.json", config=tmp_path / "x.yaml")
    refuses(ConfigError, "is no transformers directory", given=tmp_path)
    refuses(
        CheckpointError,
        "no Mask2Former of mpdiag and no model of transformers",
        given=torch.nn.Linear(1, 1),
    )
    bert = t.BertModel(t.BertConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=1))
    refuses(CheckpointError, "BertModel: is no .* that can be analysed", given=bert)
    content = settings.read_text(), images.read_text()
    names = {str(n): f"thing {n}" for n in range(len(dataset.classes))}
    rewrite(settings, id2label=names, label2id={name: int(n) for n, name in names.items()})
    refuses(CheckpointError, "its 7 classes .thing 0, .* don't include disc, .* of .*instances_val")
    rewrite(settings, model_type="bert")
    refuses(CheckpointError, "config.json: model_type = 'bert' is not supported; supported are")
    settings.write_text(content[0])
    rewrite(settings, num_queries=9)
    refuses(CheckpointError, "hf: .* weights of a Mask2FormerForUniversal.* missing")
    settings.write_text("[]")
    refuses(CheckpointError, "config.json: contains a list")
    settings.write_text(content[0])
    rewrite(images, image_processor_type="NoneSuch")
    refuses(CheckpointError, "hf: transformers can't read its preprocessing")
    images.unlink()
    refuses(CheckpointError, "preprocessor_config.json: no such file")
    images.write_text(content[1])
    (there / "model.safetensors").write_bytes(b"not one")
    refuses(CheckpointError, "model.safetensors: truncated, or not a safetensors file")
    (there / "model.safetensors").unlink()
    refuses(CheckpointError, "no model.safetensors or pytorch_model.bin")
    (there / "model.safetensors").write_bytes(b"not one")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refuses(DependencyError, r"pip install 'mpdiag\[trans")
