"""`mpdiag diagnose`: what it prints, writes and suggests."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

import mpdiag
from mpdiag import diagnosis
from mpdiag.checkpoints import save_checkpoint
from mpdiag.cli import app
from mpdiag.errors import ConfigError, OutputError, RunError
from mpdiag.models import Mask2Former
from mpdiag.store import Run
from mpdiag.store.diagnosis import Diagnosis, Finding
from reports.diagnosis import TIDE_ERRORS


def test_the_command_uses_the_data_set_of_the_run(
    model: Mask2Former, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    save_checkpoint(tmp_path / "model.pth", model)
    arguments = ["diagnose", str(tmp_path / "model.pth"), "--run", str(tmp_path / "run")]
    app([*arguments, "--limit", "1"], standalone_mode=False)
    written = Diagnosis.read(tmp_path / "run" / "diagnosis.json")
    assert written.num_images == 1
    assert list(written.class_names) == [one["name"] for one in Run.open(run).header["classes"]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("images", r"run: image 1 is not in other"),
        ("names", r"run: class 0 is 1 'disc' in the run and 1 'another' in other"),
        ("ids", r"run: class 0 is 1 'disc' in the run and 101 'disc' in other"),
    ],
)
def test_a_diagnosis_of_another_data_set_is_not_written_to_the_run(
    model: Mask2Former, run: Path, tmp_path: Path, other: str, message: str
) -> None:
    save_checkpoint(tmp_path / "model.pth", model)
    header = Run.open(run).header["dataset"]
    content = json.loads(Path(header["annotation_file"]).read_text())
    if other == "images":
        content["images"] = content["images"][1:]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [x for x in content["annotations"] if x["image_id"] in kept]
    elif other == "names":
        content["categories"][0]["name"] = "another"
    else:
        for entry in content["categories"]:
            entry["id"] += 100
        for entry in content["annotations"]:
            entry["category_id"] += 100
    (tmp_path / "other.json").write_text(json.dumps(content))
    arguments = ["diagnose", str(tmp_path / "model.pth"), "--run", str(run), "--limit", "1"]
    arguments += ["--root", header["image_root"]]
    with pytest.raises(RunError, match=message):
        app([*arguments, "--dataset", str(tmp_path / "other.json")], standalone_mode=False)


def test_a_run_is_not_the_target_of_another_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "diagnose", None)
    shutil.copytree(run, tmp_path / "other")
    with pytest.raises(ConfigError, match=f"^--run: is for a checkpoint, but {run} is a run"):
        app(["diagnose", str(run), "--run", str(tmp_path / "other")], standalone_mode=False)


def test_the_command_writes_json_and_a_page(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(
        [
            "diagnose",
            str(run),
            "--json",
            str(tmp_path / "a.json"),
            "--html",
            str(tmp_path / "a.html"),
        ],
        standalone_mode=False,
    )
    written = Diagnosis.read(tmp_path / "a.json")
    assert Diagnosis.read(run / "diagnosis.json") == written
    printed = " ".join(capsys.readouterr().out.split())
    assert f"AP {100 * written.score:.1f} on 4 images" in printed
    dearest = max(TIDE_ERRORS, key=lambda name: written.layers[-1][name])
    cost = 100 * written.layers[-1][dearest]
    assert f"that each kind of error costs, at most: {dearest} {cost:.1f}" in printed
    names = Run.open(run).header["dataset"]
    data = f"--dataset {names['annotation_file']} --root {names['image_root']}"
    assert f"mpdiag diagnose model {data} --run {run}" in printed
    page = (tmp_path / "a.html").read_text()
    assert "<h1>" in page and "Exacerbation" in page


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_file_that_cannot_be_written_is_an_error_before_the_work(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "diagnose", None)
    for file, problem in ((tmp_path / "no" / "a", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(OutputError, match=problem):
            app(["diagnose", "user/model", option, str(file)], standalone_mode=False)


def test_the_result_is_printed_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diagnose(*_: object, **options: object) -> Diagnosis:
        (tmp_path / "folder").rmdir()
        return Diagnosis(0.4, [], 0.01, 20)

    monkeypatch.setattr(diagnosis, "diagnose", diagnose)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        app(
            ["diagnose", "user/model", "--json", str(tmp_path / "folder" / "a.json")],
            standalone_mode=False,
        )
    assert "AP 40.0 on 20 images" in capsys.readouterr().out


@pytest.mark.parametrize("checkpoint", [7, None, {"path": 5}, {"path": ["a"]}, {}])
def test_a_run_without_a_readable_checkpoint_suggests_none(
    checkpoint: object, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    header = json.loads((copy / "run.json").read_text())
    annotations, images = (header["dataset"][key] for key in ("annotation_file", "image_root"))
    for dataset in ("text", {"annotation_file": 3, "image_root": images}):
        header |= {"checkpoint": checkpoint, "dataset": dataset}
        (copy / "run.json").write_text(json.dumps(header))
        with pytest.raises(RunError, match="names no annotation file; give --dataset"):
            mpdiag.diagnose(copy)
    words = ["diagnose", str(copy), "--dataset", annotations, "--root", images]
    app(words, standalone_mode=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "on 4 images" in printed and "tested on the checkpoint" not in printed
    assert "heads, queries or annotations gains as much" in printed


def test_the_command_names_layers_and_classes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = {"predicted_and_annotated": [[0, 1], [7, 0]], "shift": -2.5, "share": [0.5, 1]}
    finding = Finding(
        "class-confusion", 0.05, (0.02, 0.08), layers=(2, 3), classes=(1, 7), evidence=evidence
    )
    found = Diagnosis(0.4, [finding], 0.01, 20, class_names=("disc", "[b]star[/b]"))
    monkeypatch.setattr(diagnosis, "diagnose", lambda *_, **__: found)
    page = tmp_path / "a.html"
    app(["diagnose", "user/model", "--html", str(page)], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "Layers: 2, 3" in printed and "Classes: [b]star[/b], 7" in printed
    assert "Predicted and annotated: disc → [b]star[/b], 7 → disc" in " ".join(
        printed.translate(dict.fromkeys(map(ord, "│\n"), " ")).split()
    )
    assert "Shift: -2.5" in printed and "Share" not in printed  # of layers: on the page only
    assert "[b]star[/b], 7" in page.read_text() and "0.5, 1" in page.read_text()


def test_the_command_compares_two_models(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["diagnose", str(run), "--against", str(run)], standalone_mode=False)
    assert "AP of run minus AP of run: +0.0" in capsys.readouterr().out


def test_the_command_suggests_the_analysis_of_the_same_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def diagnose(*_: object, **options: object) -> Diagnosis:
        given.update(options)
        return Diagnosis(0.4, [], 0.01, 20, score_name="miou")

    monkeypatch.setattr(diagnosis, "diagnose", diagnose)
    words = [
        "user/model",
        "--dataset",
        "own",
        "--engine",
        "mpdiag",
        "--root",
        "my data",
        "--split",
        "test",
    ]
    words += ["--task", "semantic"]
    app(["diagnose", *words], standalone_mode=False)
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == f"Next: mpdiag analyze {shlex.join(words)}"
    assert printed.out.startswith("mIoU 40.0 on 20 images. Nothing found")
    assert given["task"] == "semantic" and given["split"] == "test"
    assert given["engine"] == "mpdiag"
