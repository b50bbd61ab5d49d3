"""The command line end to end: all main commands, and typical user errors."""

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from mpdiag import __version__
from mpdiag.cli import main
from mpdiag.data import generate_synthetic
from mpdiag.store import Run

from ..small_recipe import SMALL

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mpdiag(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mpdiag", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=8, val=4, size=64)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A training output directory after one step."""
    from trainers.loop import train
    from trainers.recipe import load_recipe

    output = tmp_path_factory.mktemp("train") / "baseline"
    changes = [f"data.root={root}", "schedule.iterations=1", "data.batch_size=2"]
    train(load_recipe("synthetic-tiny", [*SMALL, *changes]), output, console=Console(quiet=True))
    return output


@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mpdiag.demo import run_demo
    from trainers.recipe import load_recipe

    output = tmp_path / "demo"
    monkeypatch.setattr(
        "trainers.recipe.load_recipe", lambda name, changes: load_recipe(name, [*SMALL, *changes])
    )

    def demo() -> str:
        console = Console(file=StringIO(), width=120)
        run_demo(output, console, train_images=16, val_images=3, iterations=2)
        return console.file.getvalue()

    printed = demo()
    assert "2. train baseline: 2 steps" in printed
    assert "7/7 write the report" in printed
    assert "Mask2Former" in printed and "multi-layer-mp" in printed
    assert printed.splitlines()[-1].startswith(f"Next: mpdiag dashboard {output}/runs/baseline ")
    for name in ("report.md", "report.html", "report.tex", "report.csv", "curves.png"):
        assert (output / "report" / name).is_file()
    parts = {
        name: Run.open(output / "runs" / name).header["part"]
        for name in ("baseline", "multi-layer-mp", "multi-layer-mp-piloted")
    }
    assert list(parts.values()) == ["matching", "matching", "piloted"]
    before = (output / "train" / "baseline" / "model_final.pth").stat().st_mtime_ns
    assert "baseline is already trained" in demo()
    assert (output / "train" / "baseline" / "model_final.pth").stat().st_mtime_ns == before


@pytest.mark.slow
def test_quick_demo_needs_no_training(
    tmp_path: Path, mpdiag: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpdiag.demo.QUICK_IMAGES", 8)
    monkeypatch.setitem(sys.modules, "trainers.loop", None)  # importing it would fail
    output = tmp_path / "demo"
    status, out, _ = mpdiag("demo", "--quick", "--output", output)
    assert status == 0
    assert out.splitlines()[-1].startswith(f"Next: mpdiag dashboard {output}")
    baseline, piloted = (
        Run.open(output / "runs" / name).summary for name in ("baseline", "multi-layer-mp")
    )
    # These are trained models: masks of late layers agree, and mask piloting raises Util.
    assert min(run["layers"][-1]["miou_l"] for run in (baseline, piloted)) > 0.7
    utils = [sum(layer["util"] for layer in run["layers"]) / 9 for run in (baseline, piloted)]
    assert utils[1] > utils[0] + 0.02


def test_version(mpdiag: Command) -> None:
    assert mpdiag("--version") == (0, f"mpdiag {__version__}\n", "")


def test_export(tmp_path: Path, mpdiag: Command, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "run", images=2)
    status, out, err = mpdiag("export", run)
    assert status == 0
    assert out == f"{tmp_path / 'run-coco' / 'layer-09.json'}\n"
    assert "analyse with --evaluate-layers to export all" in err
    status, _, err = mpdiag("export", run)
    assert status == 2 and "run-coco: is not empty; choose another --output" in err


def test_train_analyze_report(tmp_path: Path, mpdiag: Command, root: Path) -> None:
    changes = ["method=piloted", f"data.root={root}", "schedule.iterations=2", "data.batch_size=2"]
    status, out, _ = mpdiag(
        "train", "synthetic-tiny", *SMALL, *changes, "--output", tmp_path / "train"
    )
    assert status == 0 and "model_final.pth" in out
    for part in ("matching", "piloted"):
        status, out, error = mpdiag(
            "analyze", tmp_path / "train", "--dataset", "synthetic", "--root", root,
            "--part", part, "--output", tmp_path / part, "--save-masks", "worst:2",
        )  # fmt: skip
        assert status == 0 and str(tmp_path / part) in out
        summary = Run.open(tmp_path / part).summary
        assert summary["num_images"] == 4
        miou_l = [100 * layer["miou_l"] for layer in summary["layers"]]
        result = f"mIoU-L {min(miou_l):.0f} to {max(miou_l):.0f}% over the layers; Util "
        assert result in " ".join(error.split())
        assert (f"AP {100 * summary.get('ap', {}).get('ap', 2):.1f};" in error) == (
            part == "matching"
        )
    status, out, _ = mpdiag(
        "report", tmp_path / "matching", tmp_path / "piloted", "--output", tmp_path / "report",
        "--formats", "md,csv",
    )  # fmt: skip
    assert status == 0 and "report.md" in out
    assert not (tmp_path / "report" / "report.html").exists()
    status, out, _ = mpdiag("compare", tmp_path / "matching", tmp_path / "piloted",
                            "--output", tmp_path / "difference.json")  # fmt: skip
    assert status == 0 and "95% interval" in out
    assert json.loads((tmp_path / "difference.json").read_text())["images"] == 4


def test_html_report_of_one_run(
    tmp_path: Path, mpdiag: Command, make_run: Callable[..., Path]
) -> None:
    run = make_run(tmp_path / "run")
    status, out, _ = mpdiag("report", run, "--html")
    page = tmp_path / "run-report" / "findings.html"
    assert status == 0 and str(page) in out and "Lowest Util" in page.read_text()
    status, _, err = mpdiag("report", run, run, "--html")
    assert status == 2 and "--html: takes one run" in err


def test_synth_generates_a_data_set_once(tmp_path: Path, mpdiag: Command) -> None:
    words = ("data", "synth", tmp_path / "set", "--train", 2, "--val", 1, "--size", 48)
    assert mpdiag(*words)[0] == 0
    before = (tmp_path / "set" / "annotations" / "instances_train.json").read_bytes()
    assert mpdiag(*words)[0] == 0
    status, _, err = mpdiag(*words, "--seed", 1)
    assert status == 2 and str(tmp_path / "set") in err
    assert (tmp_path / "set" / "annotations" / "instances_train.json").read_bytes() == before


def test_data_check_lists_all_problems(tmp_path: Path, mpdiag: Command, root: Path) -> None:
    status, out, _ = mpdiag("data", "check", root / "synthetic", "--limit", 3)
    assert status == 0 and "synthetic train instance: 8 images (read: first 3)" in out
    assert "synthetic val instance: 4 images (read: first 3)" in out and "Errors" not in out
    status, out, _ = mpdiag("data", "check", "synthetic", "--root", root, "--split", "val",
                            "--task", "semantic")  # fmt: skip
    assert status == 0 and "synthetic val semantic: 4 images, 9 classes" in out
    path = coco_file(tmp_path / "data" / "own.json")
    status, out, _ = mpdiag("data", "check", path)
    assert status == 0 and "image without annotation" in out and "Errors" not in out
    (tmp_path / "data" / "eight.jpg").unlink()
    status, out, err = mpdiag("data", "check", path)
    assert status == 2 and "missing file" in out and "eight.jpg" in out and "Traceback" not in err
    path.write_text('[{"image_id": 7, "category_id": 1, "score": 0.5}]')
    status, out, _ = mpdiag("data", "check", path)
    assert status == 2 and "a results file" in " ".join(out.split())
    status, out, _ = mpdiag("data", "check", tmp_path / "nowhere")
    assert status == 2 and out.count("unknown data set") == 1


def test_output_that_cannot_be_written(
    tmp_path: Path, mpdiag: Command, trained: Path, root: Path
) -> None:
    """The output is below a file, so that no user can write it, not even root."""
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / "below"
    data = ("--dataset", "synthetic", "--root", root, "--limit", 1)
    run = tmp_path / "run"
    assert mpdiag("analyze", trained, *data, "--output", run)[0] == 0
    for words in (
        ("analyze", trained, *data),
        ("report", run),
        ("report", run, "--html"),
        ("train", "synthetic-tiny", f"data.root={root}", "schedule.iterations=1"),
    ):
        status, _, err = mpdiag(*words, "--output", output)
        assert status == 2 and "Traceback" not in err, words
        assert f"{output}: cannot be used (Not a directory)" in " ".join(err.split()), words
    with pytest.raises(NotADirectoryError):
        mpdiag("--debug", "report", run, "--output", output)
    assert (tmp_path / "file").read_text() == "mine"


def coco_file(path: Path, **changes: object) -> Path:
    content: dict[str, object] = {
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "height": 40, "width": 50}
            for number, name in ((7, "seven"), (8, "eight"))
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, 8)],
        "annotations": [
            {
                "id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "area": 100,
                "bbox": [5, 5, 10, 10], "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]],
            }
        ],
    }  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**content, **changes}))
    for name in ("seven", "eight"):
        Image.new("RGB", (50, 40), (90, 120, 30)).save(path.parent / f"{name}.jpg")
    return path


@pytest.mark.parametrize(
    "case",
    [
        "missing checkpoint",
        "truncated checkpoint",
        "checkpoint of something else",
        "results file",
        "summary file",
        "truncated json",
        "missing image",
        "other classes",
        "unknown data set",
        "no mp part",
        "unwritten annotation",
    ],
)
def test_bad_input_to_analyze(
    tmp_path: Path, mpdiag: Command, trained: Path, root: Path, case: str
) -> None:
    checkpoint, dataset = trained, str(coco_file(tmp_path / "data" / "own.json"))
    extra: list[object] = []
    named = "own.json"
    if case == "missing checkpoint":
        checkpoint, named = tmp_path / "none.pth", "none.pth"
    elif case == "truncated checkpoint":
        checkpoint, named = tmp_path / "cut.pth", "cut.pth"
        checkpoint.write_bytes((trained / "model_final.pth").read_bytes()[:9999])
    elif case == "checkpoint of something else":
        checkpoint, named = tmp_path / "resnet.pth", "resnet.pth"
        torch.save({"fc.weight": torch.zeros(3)}, checkpoint)
    elif case == "results file":
        Path(dataset).write_text('[{"image_id": 7, "category_id": 1, "score": 0.5}]')
    elif case == "summary file":
        Path(dataset).write_text('{"schema_version": 1, "num_images": 3}')
    elif case == "truncated json":
        Path(dataset).write_text(Path(dataset).read_text()[:100])
    elif case == "missing image":
        (tmp_path / "data" / "seven.jpg").unlink()
        named = "seven.jpg"
    elif case == "other classes":
        coco_file(Path(dataset), categories=[{"id": 3, "name": "one"}])
        named = "7 classes"
    elif case == "unknown data set":
        dataset, named = "imagenet", "imagenet"
    elif case == "no mp part":
        extra, named = ["--part", "piloted"], "model_final.pth"
    elif case == "unwritten annotation":
        coco_file(
            Path(dataset),
            annotations=[{"id": 1, "image_id": 9, "category_id": 3, "segmentation": []}],
        )
    output = tmp_path / "run"
    status, _, err = mpdiag("analyze", checkpoint, "--dataset", dataset, "--output", output, *extra)
    assert status == 2
    message = err.strip().removeprefix("error: ")
    assert named in message and "\n" not in message and "Traceback" not in err
    assert not output.exists()


def test_output_of_another_run_is_not_changed(
    tmp_path: Path, mpdiag: Command, trained: Path, root: Path
) -> None:
    words = ("analyze", trained, "--dataset", "synthetic", "--root", root, "--output")
    assert mpdiag(*words, tmp_path / "run", "--limit", 2)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for extra in (["--limit", 3], ["--limit", 2], ["--limit", 3, "--resume"]):
        status, _, err = mpdiag(*words, tmp_path / "run", *extra)
        assert status == 2 and str(tmp_path / "run") in err
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert before == after


def test_list_shows_recipes_and_published_results(mpdiag: Command) -> None:
    status, out, _ = mpdiag("train", "--list")
    assert status == 0
    row = next(line.split() for line in out.splitlines() if line.startswith("table4-5-all-layers "))
    assert row[1:] == ["R50,", "COCO", "instance", "AP", "40.2"]
    status, _, err = mpdiag("train")
    assert status == 2 and "mpdiag train --list" in err and "Traceback" not in err


def test_dry_run_shows_the_recipe(
    tmp_path: Path, mpdiag: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = mpdiag("train", "synthetic-tiny", "seed=3", "--dry-run")
    assert status == 0 and "seed: 3" in out and not list(tmp_path.iterdir())
    (tmp_path / "ours.yaml").write_text(out)
    assert mpdiag("train", "ours.yaml", "--dry-run")[1].partition("\n")[2] == out.partition("\n")[2]


def test_detectron2_yaml_and_key_value_pairs(tmp_path: Path, mpdiag: Command) -> None:
    """Negative values are not options, and unknown options are not detectron2 keys."""
    file = tmp_path / "video.yaml"
    file.write_text('MODEL: {META_ARCHITECTURE: "VideoMaskFormer"}')
    pair = ("MODEL.MASK_FORMER.LB_NOISE_RATIO", "-1")
    for words, named in [
        ([*pair, "--dry-run"], "video models are not supported"),
        ([*pair, "--dryrun"], "--dryrun: no such option"),
        (["SOLVER.MAXITER", "3"], "did you mean SOLVER.MAX_ITER?"),
    ]:
        status, _, err = mpdiag("train", file, *words)
        assert status == 2 and named in err and "Traceback" not in err


def test_bad_input_to_train(tmp_path: Path, mpdiag: Command, root: Path) -> None:
    output = tmp_path / "run"
    for words, named in [
        (["synthetic-tiny", "schedule.iteration=3"], "schedule.iteration"),
        (["synthetic-tiny", "method=pilot"], "method = pilot"),
        (["synthetic-tinny"], "synthetic-tinny"),
        (["synthetic-tiny", "data.dataset=none.json"], "none.json"),
        (["synthetic-tiny", f"data.root={root}", "init=none.pth"], "none.pth"),
        ([tmp_path / "none.yaml"], "none.yaml"),
    ]:
        status, _, err = mpdiag("train", *words, "--output", output)
        assert status == 2 and named in err and "Traceback" not in err
        assert not output.exists()


def test_bad_input_to_report_and_dashboard(tmp_path: Path, mpdiag: Command) -> None:
    for words in (
        ["report", tmp_path / "none", "--output", tmp_path / "report"],
        ["dashboard", tmp_path / "none"],
    ):
        status, _, err = mpdiag(*words)
        assert status == 2 and str(tmp_path / "none") in err.replace("\n", "")
    status, _, err = mpdiag("dashboard", tmp_path / "none", "--device", "tpu")
    assert status == 2 and "--device tpu: is not available; choose cpu" in " ".join(err.split())
    status, _, err = mpdiag("report", tmp_path / "none", "--threshold", "kept=0.8")
    assert status == 2 and "kept" in err and "kept_iou, object_iou, several" in err
    assert not (tmp_path / "report").exists()


def test_debug_raises_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mpdiag.errors import CheckpointError

    words = ["--debug", "analyze", tmp_path / "no.pth", "--dataset", "coco", "--output", "x"]
    monkeypatch.setattr(sys, "argv", ["mpdiag", *map(str, words)])
    with pytest.raises(CheckpointError):
        main()


def test_detectron2_engine_needs_detectron2(
    mpdiag: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [x for x in sys.modules if x.split(".")[:2] == ["trainers", "detectron2"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)
    words = ("train", "--config-file", "x.yaml", "SOLVER.MAX_ITER", 9, "--engine", "detectron2")
    status, _, err = mpdiag(*words)
    assert status == 2 and "see docs/detectron2.md" in " ".join(err.split())
    status, _, err = mpdiag("train", "synthetic-tiny", "--num-gpus", 2)
    assert status == 2 and "use torchrun to start several processes" in " ".join(err.split())


def test_transformers_model(tmp_path: Path, root: Path, mpdiag: Command) -> None:
    transformers = pytest.importorskip("transformers")
    annotations = root / "synthetic" / "annotations" / "instances_val.json"
    categories = json.loads(annotations.read_text())["categories"]
    labels = {number: one["name"] for number, one in enumerate(categories)}
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_blocks": 2}
    config = transformers.EomtConfig(
        image_size=64, num_queries=4, num_register_tokens=1, id2label=labels, **size
    )
    transformers.EomtForUniversalSegmentation(config).save_pretrained(tmp_path / "model")
    images = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    images.save_pretrained(tmp_path / "model")
    analyze = ("analyze", tmp_path / "model", "--dataset", "synthetic", "--root", root)
    status, out, _ = mpdiag(*analyze, "--output", tmp_path / "run")
    assert status == 0 and str(tmp_path / "run") in out
    assert Run.open(tmp_path / "run").num_layers == 2
    status, out, _ = mpdiag("report", tmp_path / "run", "--output", tmp_path / "report")
    assert status == 0
    assert "transformers EoMT" in (tmp_path / "report" / "report.md").read_text()
    for words, message in (
        (("--engine", "mpdiag"), "model_type = 'eomt'; mpdiag reads mask2former only"),
        (("--part", "piloted"), "--part piloted: works with models that mpdiag runs"),
        (
            ("--intervene", "attention=gt:1"),
            "--intervene: transformers EoMT has no masked attention",
        ),
    ):
        status, _, error = mpdiag(*analyze, "--output", tmp_path / "no", *words)
        assert status == 2 and message in " ".join(error.split())
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("command", ["analyze", "diagnose"])
def test_a_path_that_is_not_there_is_an_error_at_once(
    command: str, tmp_path: Path, mpdiag: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "baseline").mkdir()
    for package in ("analysis", "diagnosis"):  # which need torch
        monkeypatch.setitem(sys.modules, f"mpdiag.{package}", None)
    close = f"did you mean {tmp_path / 'baseline'}? Or give"
    for name, hint in (("basline", close), ("x", "give")):
        status, _, error = mpdiag(command, tmp_path / name, "--dataset", "synthetic")
        found = " ".join(error.split())
        assert status == 2 and f"{tmp_path / name}: no such file or directory; {hint}" in found


def test_model_of_a_module(
    tmp_path: Path, trained: Path, root: Path, mpdiag: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "models_of_a_user.py").write_text(
        "import torch, mpdiag\n"
        "class Wrapper(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        self.model = mpdiag.load_model({str(trained / 'model_final.pth')!r})\n"
        "    def forward(self, images):\n"
        "        return self.model(list(images))\n"
        "def segmenter():\n"
        "    return mpdiag.CustomModel(Wrapper(), lambda image: image)\n"
        "number = 3\n"
        "layer = torch.nn.Linear(1, 1)\n"
    )
    data = ("--dataset", "synthetic", "--root", root)
    status, _, _ = mpdiag(
        "analyze", "models_of_a_user:segmenter", *data, "--output", tmp_path / "run", "--evaluate"
    )
    assert status == 0
    assert Run.open(tmp_path / "run").header["checkpoint"]["path"] == "Wrapper"
    status, out, _ = mpdiag("diagnose", tmp_path / "run")
    assert status == 0 and "mpdiag diagnose Wrapper" not in out
    for command in ("analyze", "diagnose"):
        for name, message in (
            ("no_such_module:segmenter", "no_such_module cannot be imported"),
            ("models_of_a_user:number", "gives no mpdiag.CustomModel; define number as one in"),
            ("models_of_a_user:layer", "gives no mpdiag.CustomModel; define layer as one in"),
            ("models_of_a_user:Wrapper", "gives no mpdiag.CustomModel; define Wrapper as one"),
        ):
            status, _, error = mpdiag(command, name, *data)
            assert status == 2 and f"{name}: " in error and message in " ".join(error.split())
