"""Optional packages: what recording needs, and the message for a missing extra."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from mpdiag import cli
from mpdiag.errors import DependencyError
from mpdiag.extras import EXTRAS, import_optional, missing_of, require

ROOT = Path(__file__).parents[2]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Every other package of site-packages looks as if it were not installed. typing_extensions is
# required by torch itself.
RECORD_WITHOUT_OTHER_PACKAGES = """
import sys, runpy
from importlib.machinery import PathFinder

ALLOWED = {"torch", "torchgen", "functorch", "numpy", "typing_extensions", "mpdiag"}

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        package = name.partition(".")[0]
        installed = spec is not None and "site-packages" in str(spec.origin)
        return None if installed and package not in ALLOWED else spec

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder

import torch, mpdiag
example = runpy.run_path(sys.argv[1])
model = example["Segmenter"]().eval()
with torch.no_grad(), mpdiag.record(model) as recording:
    model(torch.rand(1, 3, 32, 32))
print(tuple(recording.mask_logits.shape))
try:
    import pydantic
except ModuleNotFoundError:
    print("blocked")
"""


def test_record_needs_torch_and_numpy_alone() -> None:
    run = subprocess.run(
        [sys.executable, "-c", RECORD_WITHOUT_OTHER_PACKAGES, "examples/own_model.py"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["(4, 1, 6, 8, 8)", "blocked"]


def test_each_optional_package_is_in_the_extra_that_the_message_names() -> None:
    extras = METADATA["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(line.startswith(package) for line in extras[extra]), package
        assert not any(line.startswith(package) for line in METADATA["dependencies"]), package


def test_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        DependencyError,
        match=r"^transformers: is not installed, and this model needs it; "
        r"pip install 'mpdiag\[transformers\]'$",
    ):
        import_optional("transformers", "this model")
    require("numpy", "everything")


def test_commands_report_a_failed_import_of_an_extra_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(**_: object) -> None:
        raise ModuleNotFoundError(name="tensorboard.compat")

    monkeypatch.setattr(cli, "app", command)
    monkeypatch.setattr(sys, "argv", ["mpdiag", "train", "synthetic-tiny"])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == (
        "error: tensorboard: is not installed, and this command needs it; "
        "pip install 'mpdiag[train]'\n"
    )


@pytest.mark.parametrize(
    ("module", "package"), [("lightning", "pytorch_lightning"), ("detectron2", "detectron2")]
)
def test_integrations_name_what_an_installed_package_misses(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"mpdiag.integrations.{module}", raising=False)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"):
        import_module(f"mpdiag.integrations.{module}")


def test_missing_modules_of_no_extra_stay_errors() -> None:
    assert missing_of(ModuleNotFoundError(name="mpdiag.nothing")) is None
    assert "pip install wandb" in str(missing_of(ModuleNotFoundError(name="wandb.sdk")))


@pytest.mark.parametrize(
    ("module", "package", "fix"),
    [
        ("lightning", "pytorch_lightning", r"lightning: .*pip install 'mpdiag\[lightning\]'"),
        ("detectron2", "detectron2", "detectron2: .*see docs/detectron2.md"),
    ],
)
def test_integrations_name_the_missing_package(
    module: str, package: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.engine", None)
    monkeypatch.delitem(sys.modules, f"mpdiag.integrations.{module}", raising=False)
    with pytest.raises(DependencyError, match=fix):
        import_module(f"mpdiag.integrations.{module}")
