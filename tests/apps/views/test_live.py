"""The Live page: an uploaded image, a small model, and invalid input."""

import io
import threading

import numpy as np
import pytest
import streamlit as st
import torch
from PIL import Image

from apps import live_model
from mpdiag.checkpoints.saving import save_checkpoint
from mpdiag.errors import RunError
from mpdiag.models import Mask2Former


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, small_config):
    torch.manual_seed(0)
    model = Mask2Former(small_config)
    with torch.no_grad():  # the masks of a new model are nearly empty
        model.pixel_decoder.mask_features.weight.mul_(4)
    path = tmp_path_factory.mktemp("checkpoint") / "model.pth"
    save_checkpoint(path, model)
    return path


@pytest.fixture
def local(monkeypatch):
    """A local server, as `mpdiag dashboard` starts it. Images are not enlarged."""
    monkeypatch.setattr(st, "get_option", {"server.address": "localhost"}.get)
    monkeypatch.setattr("mpdiag.checkpoints.loading.SHORT_SIDE", 64)


def photo(width=96, height=64, kind="PNG"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return pixels, stream.getvalue()


def upload(page, data, name="photo.png"):
    page.file_uploader[0].set_value((name, data, "image/png")).run(timeout=120)
    return page


def test_all_layers_of_an_image_are_shown(shared_run, open_page, checkpoint, local):
    pixels, data = photo()
    page = open_page(shared_run("one"), page="live")
    assert "Enter a checkpoint" in page.info[0].value
    page.text_input[0].set_value(str(checkpoint)).run()
    upload(page, data)
    assert not page.exception and not page.error
    predictions = live_model.predict(live_model.load_model(str(checkpoint)), pixels)
    assert len(page.get("image")) == 5
    table = page.dataframe[0].value
    assert table["Query"].tolist() == predictions.queries.tolist()
    assert table["Score, %"].tolist() == pytest.approx(100 * predictions.scores[-1])
    page.selectbox(key="widget-query").set_value(int(predictions.queries[3])).run()
    lines = [c.value.split("  \n") for c in page.caption if c.value.startswith("**M")]
    lowest = np.nanmin(predictions.iou[:, 3])
    for layer, (_, iou, predicted) in enumerate(lines):
        value = predictions.iou[layer - 1, 3]
        expected = f"IoU {100 * value:.1f}%" if layer else "first layer"
        assert np.isnan(value) or iou == (
            f"**{expected}**" if layer and value == lowest else expected
        )
        assert (
            predicted == f"class {predictions.labels[layer, 3]} {predictions.scores[layer, 3]:.2f}"
        )


def test_predictions_match_the_model(checkpoint, local):
    pixels, _ = photo()
    loaded = live_model.load_model(str(checkpoint))
    predictions = live_model.predict(loaded, pixels)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    with torch.inference_mode():
        output = loaded.model([image]).matching
    classes, masks = output.class_logits[-1, 0], output.mask_logits[-1, 0]
    scores = classes.softmax(-1)[:, :-1].max(-1).values
    order = scores.argsort(descending=True)
    assert predictions.queries.tolist() == order.tolist()
    assert np.array_equal(predictions.masks[-1], (masks[order] > 0).numpy())
    assert predictions.miou_l.shape == (4,)


def test_sessions_run_the_model_one_after_the_other(checkpoint, local):
    loaded = live_model.load_model(str(checkpoint))
    image, other = photo()[0], 255 - photo()[0]
    alone = live_model.predict(loaded, image)
    session = threading.Thread(target=live_model.predict, args=(loaded, other))

    def start_session(*_):
        if not session.ident:
            session.start()
            session.join(timeout=0.5)

    with loaded.model.register_forward_pre_hook(start_session):
        found = live_model.predict(loaded, image)
    session.join()
    np.testing.assert_array_equal(found.scores, alone.scores)
    np.testing.assert_array_equal(found.masks, alone.masks)


def test_predictions_on_the_gpu_are_those_on_the_cpu(checkpoint, local, gpu):
    pixels, _ = photo()
    on_cpu = live_model.load_model(str(checkpoint), "cpu")
    on_gpu = live_model.load_model(str(checkpoint))
    assert next(on_gpu.model.parameters()).device == gpu
    assert live_model.device_name(on_gpu).startswith("cuda:0, ")
    expected, found = (live_model.predict(loaded, pixels) for loaded in (on_cpu, on_gpu))
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)
    assert found.miou_l == pytest.approx(expected.miou_l, abs=1e-2, nan_ok=True)


def test_device_of_the_command_line_runs_the_model(shared_run, open_page, checkpoint, local):
    run = shared_run("one")
    page = open_page("--device", "cpu", "--checkpoint", checkpoint, run, page="live")
    upload(page, photo()[1])
    assert "Runs on the CPU." in [caption.value for caption in page.caption]
    page = open_page("--device", "cuda:99", "--checkpoint", checkpoint, run, page="live")
    upload(page, photo()[1])
    (error,) = page.error
    assert error.value.replace("\\", "").startswith("--device cuda:99: is not available; choose")
    assert not page.get("image")


def test_too_little_memory_is_an_error(checkpoint, local, monkeypatch):
    loaded = live_model.load_model(str(checkpoint))

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loaded.model, "forward", full)
    with pytest.raises(RunError, match=r"too little memory.*--device cpu"):
        live_model.predict(loaded, photo()[0])


def test_checkpoint_of_the_command_line_is_the_default(
    shared_run, open_page, checkpoint, local, monkeypatch
):
    run = shared_run("one")
    page = open_page("--checkpoint", checkpoint, run, page="live")
    assert page.text_input[0].value == str(checkpoint)
    monkeypatch.setattr(st, "get_option", {"server.address": "0.0.0.0"}.get)
    page = open_page("--checkpoint", checkpoint, run, page="live")
    assert not page.text_input
    upload(page, photo()[1])
    assert len(page.get("image")) == 5


def test_only_a_local_server_accepts_a_path(shared_run, open_page, monkeypatch):
    for served in ("0.0.0.0", None, "192.0.2.7"):
        monkeypatch.setattr(st, "get_option", {"server.address": served}.get)
        page = open_page(shared_run(str(served)), page="live")
        assert not page.text_input
        assert "--checkpoint" in page.info[0].value


@pytest.mark.parametrize("text", ["nowhere.pth", "/etc/passwd", "<b>", "\0"])
def test_invalid_checkpoint_is_an_error(shared_run, open_page, local, text):
    page = open_page(shared_run("one"), page="live")
    page.text_input[0].set_value(text).run()
    upload(page, photo()[1])
    assert len(page.error) == 1 and not page.exception
    assert "<" not in page.error[0].value.replace(r"\<", "")


def test_code_in_a_checkpoint_is_not_executed(make_run, open_page, tmp_path, local):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}))
    page = open_page(make_run(tmp_path / "one"), page="live")
    page.text_input[0].set_value(str(tmp_path / "evil.pth")).run()
    upload(page, photo()[1])
    assert len(page.error) == 1
    assert not (tmp_path / "ran").exists()


def test_invalid_image_is_an_error(shared_run, open_page, checkpoint, local):
    page = open_page(shared_run("one"), page="live")
    page.text_input[0].set_value(str(checkpoint)).run()
    upload(page, b"\x89PNG truncated", "<i>a</i>.png")
    assert r"\<i\>a\<\/i\>\.png\: not a readable image" in page.error[0].value
