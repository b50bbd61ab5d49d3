"""The path of docs/reproducing.md, with random weights in the form of the authors' checkpoint."""

import json
import re
from pathlib import Path

import pytest
import torch

from mpdiag import analyze
from mpdiag.checkpoints.official_keys import to_official
from mpdiag.config import ModelConfig
from mpdiag.models import Mask2Former
from mpdiag.store import Run
from reports import write_report

REFERENCE = Path(__file__).parents[1] / "parity" / "reference" / "mpformer_r50.json"
DATASETS = Path(__file__).parents[3] / "shared" / "datasets"
# Sizes of maskformer2_R50_bs16_12ep_DN_query.yaml.
SHAPES = {
    "sem_seg_head.predictor.query_feat.weight": (100, 256),
    "sem_seg_head.predictor.label_enc.weight": (80, 256),
    "sem_seg_head.predictor.class_embed.weight": (81, 256),
    "sem_seg_head.predictor.transformer_ffn_layers.8.linear1.weight": (2048, 256),
    "sem_seg_head.pixel_decoder.transformer.encoder.layers.5.linear1.weight": (1024, 256),
    "backbone.res5.2.conv3.weight": (2048, 512, 1, 1),
}
ARCHITECTURE = {
    "num_classes": 80, "num_queries": 100, "hidden_dim": 256, "mask_dim": 256, "num_heads": 8,
    "encoder_layers": 6, "encoder_feedforward_dim": 1024, "encoder_points": 4,
    "decoder_layers": 9, "feedforward_dim": 2048,
    "query_position": False, "label_embedding": True,
}  # fmt: skip


def official_names() -> set[str]:
    """Return the names that the official code gives an R50 model with six encoder layers."""
    names = set(json.loads(REFERENCE.read_text())["param_shapes"])  # two encoder layers
    layer = re.compile(r"(.*\.encoder\.layers\.)0(\..*)")
    return names | {
        f"{found[1]}{number}{found[2]}" for found in map(layer.match, names) if found
        for number in range(6)
    }  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Random weights as detectron2 saves them: a model, an iteration and a scheduler."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = Mask2Former(ModelConfig(query_position=False, label_embedding=True)).state_dict()
    model = {
        to_official(name): torch.empty(tensor.shape).uniform_(-0.05, 0.05)
        for name, tensor in shapes.items()
    }
    missing = official_names() - model.keys()
    assert missing <= {name for name in missing if name.startswith("criterion.")}, missing
    assert {name: tuple(model[name].shape) for name in SHAPES} == SHAPES
    model["criterion.empty_weight"] = torch.tensor([1.0] * 80 + [0.1])
    path = tmp_path / "model_final.pth"
    torch.save({"model": model, "iteration": 88499, "scheduler": {"last_epoch": 88500}}, path)
    return path


@pytest.mark.skipif(not (DATASETS / "coco").is_dir(), reason="needs images of COCO")
def test_analysis_of_both_parts_and_report_beside_the_paper(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = tmp_path / "small.yaml"  # the default of 800 pixels takes minutes
    config.write_text("INPUT: {MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 128}\n")
    runs = []
    for part in ("matching", "piloted"):
        output = tmp_path / part
        analyze(checkpoint, "coco", output, part=part, root=DATASETS, limit=2, config=config)
        run = Run.open(output)
        assert run.summary["num_images"] == 2
        assert run.num_layers == 9 and len(run.header["classes"]) == 80
        runs.append(run)
    assert runs[0].header["architecture"].items() >= ARCHITECTURE.items()
    assert runs[0].summary["num_queries"] == 100 and "ap" in runs[0].summary["ap"]
    objects = runs[1].query("SELECT count(*) AS n FROM targets")["n"].iloc[0]
    fed = runs[1].query("SELECT count(*) AS n FROM queries WHERE layer = 9")["n"].iloc[0]
    assert fed == objects > 0  # one query for each object
    write_report([run.path for run in runs], tmp_path / "report", ("md",))
    page = (tmp_path / "report" / "report.md").read_text()
    for text in ("Multi-layer MP (paper)", "Mask2Former (paper)", "97.6", "99.0"):
        assert text in page, text
