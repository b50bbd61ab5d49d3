"""CSV files, options and input files of `mpdiag report` and `mpdiag reproduce`."""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from apps.drawing import make_thumbnail
from mpdiag.cli import app
from mpdiag.errors import ConfigError, RunError
from mpdiag.reproduce.explanations import read_explanations
from mpdiag.store import Run, compare
from mpdiag.store.lock import lock_directory
from reports.comparison import write_comparison
from reports.formatting import to_csv
from reports.mask_images import load_image
from reports.reproduction import logged_steps

MakeRun = Callable[..., Path]

FORMULAS = [
    "=1+1",
    "@SUM(A1)",
    "+1+1",
    "-1+cmd|' /C calc'!A0",
    "--1",
    "-",
    "\tx",
    "\r=1",
    "\n=1",
    "=1\r=2",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "\N{FULLWIDTH COMMERCIAL AT}SUM(A1)",
    "\N{FULLWIDTH PLUS SIGN}1",
    "\N{FULLWIDTH HYPHEN-MINUS}1+1",
]


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing in reports: Matplotlib takes most of their time."""
    monkeypatch.setattr("reports.report.draw_curves", lambda table, kind: kind.encode())


def read_csv(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_in_cells_and_column_names_are_escaped(text: str) -> None:
    assert read_csv(to_csv(pd.DataFrame({text: [text]}))) == [[f"'{text}"]] * 2


@pytest.mark.parametrize("start", "=@+-\N{FULLWIDTH EQUALS SIGN}")
@pytest.mark.parametrize("separator", [*";|\t", ';"'])
def test_formulas_after_another_separator_are_escaped(separator: str, start: str) -> None:
    data = to_csv(pd.DataFrame({"name": [f'a.jpg{separator}{start}HYPERLINK("x")']}))
    ((_,), (cell,)) = read_csv(data)
    assert cell == f'a.jpg{separator[0]}\'{separator[1:]}{start}HYPERLINK("x")'


def test_a_line_break_in_a_cell_starts_no_row() -> None:
    data = to_csv(pd.DataFrame({"name": ["a\r=1+1", "b\n=1+1", 'c"\r\n=1+1']}))
    assert read_csv(data) == [["name"], ["a\r=1+1"], ["b\n=1+1"], ['c"\r\n=1+1']]


def test_numbers_are_not_changed() -> None:
    cells = [-0.5, 3, -7, "-0.5", "+2", "-1e-3", None, "a=b", "mid-word"]
    saved = to_csv(pd.DataFrame({"x": pd.Series(cells, dtype=object)}))
    expected = ["x", "-0.5", "3", "-7", "-0.5", "+2", "-1e-3", "", "a=b", "mid-word"]
    assert read_csv(saved) == [[cell] for cell in expected]


def test_names_in_run_json_are_escaped_in_all_files(tmp_path: Path, make_run: MakeRun) -> None:
    paths = [make_run(tmp_path / x, images=2, layers=1, name=f"={x}", part="=1+1") for x in "ab"]
    assert mpdiag("report", *paths, "--output", tmp_path, "--formats", "csv").exit_code == 0
    cells = {cell for row in read_csv((tmp_path / "report.csv").read_bytes()) for cell in row}
    assert {"'=a", "'=b", "'=1+1"} <= cells
    write_comparison(compare(*map(Run.open, paths)), tmp_path / "compare.csv")
    cells |= {cell for row in read_csv((tmp_path / "compare.csv").read_bytes()) for cell in row}
    assert not [cell for cell in cells if cell.startswith("=")]


def mpdiag(*words: object):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize(
    ("folder", "run", "output"),
    [
        ("runs/a", ".", "runs/a-report"),
        ("runs/a/masks", "..", "runs/a-report"),
        ("runs/a/masks", "../../a/masks/..", "runs/a-report"),
        ("runs", "a", "runs/a-report"),
        ("runs", "a/", "runs/a-report"),
        ("", "runs/a", "runs/a-report"),
    ],
)
def test_the_report_is_beside_the_run(
    tmp_path: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    run: str,
    output: str,
) -> None:
    make_run(tmp_path / "runs" / "a", images=1, layers=1)
    monkeypatch.chdir(tmp_path / folder)
    found = mpdiag("report", run, "--formats", "csv")
    assert found.exit_code == 0, found.output
    assert (tmp_path / output / "report.csv").is_file()
    assert len(list(tmp_path.rglob("report.csv"))) == 1


def test_the_root_directory_is_no_run() -> None:
    found = mpdiag("report", "/")
    assert found.exit_code == 1 and "run.json" in str(found.exception)


def test_formats_may_have_spaces(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "a", images=1, layers=1)
    assert mpdiag("report", run, "--formats", "md, html ").exit_code == 0
    names = {path.name for path in (tmp_path / "a-report").iterdir()}
    assert names == {"report.md", "report.html", "curves.svg", "curves.png"}
    for formats in ("", "md,", "pdf", "md html", "\x1b[2J"):
        found = mpdiag("report", run, "--formats", formats)
        assert isinstance(found.exception, ConfigError), formats
        assert "unknown report format" in str(found.exception)
        assert "\x1b" not in str(found.exception)


def test_invalid_date(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", images=1, layers=1)
    for value in ("today", "1e9", "9" * 30, "9" * 5000):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
        found = mpdiag("report", run, "--formats", "md")
        assert isinstance(found.exception, ConfigError) and "EPOCH" in str(found.exception)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touched) (w) file closefile\n"


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", EPS, b"GIF89a"])
def test_unreadable_images(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(data)
    pipe = tmp_path / "2.jpg"
    os.mkfifo(pipe)
    for read in (load_image, make_thumbnail):
        for file in (path, pipe, tmp_path / "missing"):
            with pytest.raises(RunError, match="not a readable image"):
                read(file)


def test_rotated_images_are_upright(tmp_path: Path) -> None:
    """Masks are upright, as the model has seen the image."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees, clockwise
    sideways = Image.new("RGB", (64, 32), "blue")
    sideways.paste("red", (0, 0, 32, 32))
    sideways.save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png", 64)
    assert image.shape == (64, 32, 3)
    assert image[:8, :, 0].min() == 255 and image[-8:, :, 2].min() == 255
    with Image.open(io.BytesIO(make_thumbnail(tmp_path / "a.png"))) as thumbnail:
        center = thumbnail.width // 2
        assert thumbnail.getpixel((center, 8)) == (255, 0, 0, 255)
        assert thumbnail.getpixel((8, 8))[3] == 0


def test_broken_files_of_a_reproduction(tmp_path: Path) -> None:
    log = tmp_path / "metrics.json"
    good = '{"iteration": 4, "time": 0.5}\n'
    for line in (
        "[" * 100_000,
        "3",
        "null",
        '{"time": 1}',
        '{"iteration": 1e999, "time": 1}',
        "\0",
    ):
        log.write_text(good + line)
        assert logged_steps(tmp_path) == 5
    log.write_bytes(good.encode() + b"\xff")
    assert logged_steps(tmp_path) == 5
    log.unlink()
    os.mkfifo(log)
    assert logged_steps(tmp_path) == 0
    with pytest.raises(ConfigError, match=r"metrics\.json: cannot be read"):
        read_explanations(log, ("table1",))


def test_two_reproductions_of_one_directory(tmp_path: Path) -> None:
    with lock_directory(tmp_path / "out"):
        found = mpdiag("reproduce", "figure1", "--output", tmp_path / "out")
        assert isinstance(found.exception, RunError) and "is writing" in str(found.exception)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
