"""The report of a reproduction: deterministic, and with equal values in every format."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mpdiag.store import Run
from reports.document import write_document
from reports.formatting import format_difference
from reports.reproduction import ReproductionContext, TrainedRun, build_reproduction_report
from reports.reproduction.mask_changes import gains_by_change

MakeTrained = Callable[..., list[TrainedRun]]
MakeContext = Callable[..., ReproductionContext]
SMALL = {"images": 4, "queries": 4, "layers": 9}
TARGETS = ("table1", "table7", "figure1")


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, trained_below: MakeTrained, make_context: MakeContext
) -> tuple[list[TrainedRun], dict[str, bytes]]:
    """Return trainings with two seeds, and the files of their report on a fixed date."""
    root = tmp_path_factory.mktemp("reproduction")
    trained = trained_below(root, TARGETS, [0, 1], **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "86400")
        files = write_document(
            build_reproduction_report(trained, make_context(TARGETS)), root / "report"
        )
    return trained, {path.name: path.read_bytes() for path in files}


def test_equal_runs_give_equal_bytes(
    tmp_path: Path,
    written: tuple[list[TrainedRun], dict[str, bytes]],
    make_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    trained, first = written
    again = write_document(
        build_reproduction_report(trained, make_context(TARGETS)), tmp_path / "again"
    )
    assert {path.name: path.read_bytes() for path in again} == first
    assert first.keys() == {
        "report.md", "report.html", "report.tex", "report.csv", "table1.svg",
        *(f"figure1-{number}.jpg" for number in range(1, 5)),
    }  # fmt: skip
    assert b"1970-01-02" in first["report.html"]


def test_values_of_all_formats(
    written: tuple[list[TrainedRun], dict[str, bytes]],
) -> None:
    trained, files = written
    util = {
        one.seed: json.loads((one.parts["matching"] / "summary.json").read_text())["layers"]
        for one in trained
        if one.name == "baseline"
    }
    rows = list(csv.DictReader(files["report.csv"].decode().splitlines()))
    for layer in range(1, 10):
        values = {
            row["seed"]: row["value"]
            for row in rows
            if (row["section"], row["source"], row["row"], row["part"], row["metric"], row["layer"])
            == ("table1", "ours", "Mask2Former", "matching", "util", str(layer))
        }
        expected = {str(seed): layers[layer - 1]["util"] for seed, layers in util.items()}
        assert {seed: float(values[seed]) for seed in expected} == expected
        assert float(values["mean"]) == pytest.approx(sum(expected.values()) / 2, abs=1e-15)
    cells = [f"{50 * (util[0][k]['util'] + util[1][k]['util']):.1f}" for k in range(9)]
    assert f"| Util | {' | '.join(cells)} |" in files["report.md"].decode()
    assert f"Util & {' & '.join(cells)} " in files["report.tex"].decode()
    in_html = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    assert f"<th>Util</th>{in_html}" in files["report.html"].decode()


def test_values_that_are_not_in_the_paper(
    written: tuple[list[TrainedRun], dict[str, bytes]],
) -> None:
    trained, files = written
    text = files["report.md"].decode()

    def mean(name: str, part: str, key: str, layer: int) -> float:
        summaries = [
            json.loads((one.parts[part] / "summary.json").read_text())
            for one in trained
            if one.name == name
        ]
        return sum(summary["layers"][layer][key] for summary in summaries) / len(summaries)

    for label, name, part in (
        ("Mask2Former (matching part)", "baseline", "matching"),
        ("Multi-layer MP (MP part)", "mp-all-layers", "piloted"),
    ):
        cells = [f"{100 * mean(name, part, 'matched_iou', layer):.1f}" for layer in range(9)]
        assert f"| {label} | {' | '.join(cells)} |" in text
    duplicates = sum(mean("auxiliary-loss", "matching", "duplicates", k) for k in range(9)) / 9
    row = next(line for line in text.splitlines() if line.startswith("| Auxiliary loss | ")
               and line.count("|") == 6)  # fmt: skip
    assert row.split(" | ")[-1].startswith(f"{100 * duplicates:.1f} ± ")


def test_gains_by_change(
    written: tuple[list[TrainedRun], dict[str, bytes]], make_context: MakeContext
) -> None:
    trained, _ = written
    document = build_reproduction_report(trained, make_context(("table1",)))
    table = next(
        table
        for one in document.sections
        for table in one.tables
        if "most and least" in table.title
    )
    gains = [
        gains_by_change(Run.open(one.parts["piloted"]))
        for one in trained
        if one.name == "mp-all-layers"
    ]
    row = next(row for row in table.rows if row.cells[0] == "Multi-layer MP")
    for layer in range(1, 10):
        mean = 0.5 * (gains[0][layer, 1] + gains[1][layer, 1])
        assert row.cells[1 + layer] == format_difference(mean)


def test_published_values(
    written: tuple[list[TrainedRun], dict[str, bytes]],
) -> None:
    text = written[1]["report.md"].decode()
    assert "| paper | 38.1 | 65.5 | 70.8 | 73.5 | 78.5 | – | 83.2 | 83.2 | 100.0 |" in text  # noqa: RUF001
    assert "| paper | 36.0 | 15.4 | 38.6 | 57.2 | 44M | 226G | 9.7 |" in text
    assert "1.23M | 226G | 9.8 |" in text


def test_groups_of_rows(make_trained: MakeTrained, make_context: MakeContext) -> None:
    scores = {"mp-all-layers": 0.25, "mp-all-large": 0.125, "mp-match": 0.5, "mp-label-noise": 0.25}
    trained = make_trained(
        ("table6",), ap=lambda name, seed: scores[name] + seed / 8, seed=0, **SMALL
    )
    table = build_reproduction_report(trained, make_context(("table6",))).sections[1].tables[0]
    assert table.label_columns == 2
    assert [row.cells[:6] for row in table.rows] == [
        ("Feature map", "Coarse to fine", "31.2 ± 8.8", "+0.0 ± 0.0", "40.2", "+0.6"),
        ("", "All large", "18.8 ± 8.8", "−12.5 ± 0.0", "40.0", "+0.4"),  # noqa: RUF001
        ("Assignment in MP part", "Matched", "56.2 ± 8.8", "+25.0 ± 0.0", "39.4", "−0.2"),  # noqa: RUF001
        ("", "Hard assignment", "31.2 ± 8.8", "", "39.6", ""),
    ]
    assert [row.starts_group for row in table.rows] == [True, False, True, False]
    assert "Differences are to the row 'Hard assignment', in percentage points" in table.note


def test_settings_and_environment(written: tuple[list[TrainedRun], dict[str, bytes]]) -> None:
    for name in ("report.md", "report.html", "report.tex"):
        text = written[1][name].decode()
        for fact in ("mpdiag reproduce all --size tiny", "0, 1", "2 CPU cores", "torch 2.9.0"):
            assert fact in text, (name, fact)


def test_seeds_are_those_of_the_finished_trainings(
    make_trained: MakeTrained, make_context: MakeContext
) -> None:
    trained = make_trained(["table7"], [0, 3, 4], images=2, queries=3, layers=2, seed=0)
    for one in trained:
        if one.seed == 4:
            (one.directory / "model_final.pth").unlink()
            (one.directory / "metrics.json").unlink()
    context = make_context(["table7"], machines=["2 CPU cores (Fast CPU, 1 GHz)", "8 CPU cores"])
    document = build_reproduction_report(trained, context)
    text = " ".join(document.sections[0].text)
    assert "Seeds: 0, 3." in text and "2 seeds resolve a difference of 10." in text
    facts = dict(document.sections[-1].facts)
    assert facts["Seeds"] == "0, 3"
    assert "; other processes may have shared the machine" in facts["Time"]
    assert facts["Machine"] == "2 CPU cores (Fast CPU, 1 GHz); 8 CPU cores"


def test_html_needs_no_other_file(written: tuple[list[TrainedRun], dict[str, bytes]]) -> None:
    page = written[1]["report.html"].decode()
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert page.count('src="data:') == page.count("<img") == 5


def test_missing_runs_and_explanations(
    make_trained: MakeTrained, make_context: MakeContext, tmp_path: Path
) -> None:
    trained = make_trained(["table7"], [0], images=2, queries=3, layers=2, seed=0)
    shutil.rmtree(trained[1].parts["matching"])
    context = make_context(
        ["table7"], explanations={"table7": ["Few queries are ever trained <there>."]}
    )
    write_document(build_reproduction_report(trained, context), tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert f"{trained[1].parts['matching'].name} does not exist" in text
    assert "> Few queries are ever trained &lt;there>." in text
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Few queries are ever trained &lt;there&gt;." in page


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX is installed")
def test_latex_compiles(written: tuple[list[TrainedRun], dict[str, bytes]], tmp_path: Path) -> None:
    (tmp_path / "report.tex").write_bytes(written[1]["report.tex"])
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,graphicx}\n"
        "\\begin{document}\n\\input{report.tex}\n\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout
