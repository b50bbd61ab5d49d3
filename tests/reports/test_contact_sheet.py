import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from mpdiag.cli import app
from mpdiag.data import TrainingBatches, build_augmentation, generate_synthetic, load_dataset
from reports.contact_sheet import LabelledImage, contact_sheet
from reports.palette import GT_COLORS
from trainers.recipe import load_recipe


def pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data))).astype(int)


def test_masks_have_their_own_colors() -> None:
    masks = np.zeros((2, 200, 300), dtype=bool)
    masks[0, 40:120, 30:100] = True
    masks[1, 100:180, 160:280] = True
    grey = np.full((200, 300, 3), 128, dtype=np.uint8)
    labelled = LabelledImage("a.jpg", grey, masks, ["car", "car"])
    (section,) = contact_sheet("Title", "Text.", [labelled]).sections
    (picture,) = section.pictures
    assert picture.caption == "a.jpg: 2 car (200 x 300 pixels)"
    drawn = pixels(picture.data)
    assert drawn.shape == (200, 300, 3)
    for (y, x), color in {(80, 65): GT_COLORS[0], (140, 220): GT_COLORS[1]}.items():
        expected = 0.45 * 128 + 0.55 * np.array(color)
        assert np.abs(drawn[y, x] - expected).max() < 8  # JPEG
    assert np.abs(drawn[150, 80] - 128).max() < 8


def test_pictures_of_a_check_are_training_samples(tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "synthetic", train=3, val=1, size=64)
    page = tmp_path / "new" / "page.html"
    arguments = ["data", "check", "synthetic", "--root", str(tmp_path), "--limit", "1"]
    arguments += ["--pictures", str(page), "--recipe", "synthetic-tiny"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    encoded = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page.read_text())
    config = load_recipe("synthetic-tiny")
    data = load_dataset("synthetic", root=tmp_path, split="train")
    batches = TrainingBatches(
        data,
        len(encoded),
        config.seed,
        transform=build_augmentation(config.data),
        filter_empty=True,
    )
    samples = next(batches.start(0))
    assert 0 < len(encoded) == len(samples) <= 24
    for text, sample in zip(encoded, samples, strict=True):
        drawn = pixels(base64.b64decode(text))
        outside = ~sample.masks.any(0).numpy()
        difference = np.abs(drawn - sample.image.permute(1, 2, 0).numpy())[outside]
        assert drawn.shape[:2] == sample.image.shape[1:] and np.median(difference) < 8
        assert f"{sample.file_name}:" in page.read_text()
