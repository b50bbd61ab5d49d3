"""Values and escaping of each format of the report, parsed back."""

import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mpdiag.store import LAYER_METRICS, Run
from mpdiag.store.transitions import TRANSITIONS
from reports import FORMATS, write_report
from reports.formatting import UNAVAILABLE

MakeRun = Callable[..., Path]

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(2)> \"q\" 'q' {{ 7*7 }} <% 7*7 %> << 7 >> "
    "50% \\input{secret} $a_b^c$ #1 ~ & | `q` [l](javascript:x) *b*\n# second\nline"
)
NAME = HOSTILE.replace("\n", " ")  # the name of a run is one line


class Tables(HTMLParser):
    """Texts of all table rows, all tags, and the URLs of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.urls: list[str] = []
        self.attributes: set[str] = set()
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.urls += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> Path:
    """Return the directory with the report of a run with hostile texts and of a plain one."""
    path = tmp_path_factory.mktemp("hostile")
    make_run(
        path / "a",
        name=HOSTILE,
        device=HOSTILE,
        task=HOSTILE,
        created=HOSTILE,
        settings={HOSTILE: HOSTILE},
        checkpoint={"path": HOSTILE, "sha256": HOSTILE},
        classes=HOSTILE,
    )
    make_run(path / "b", part="piloted", seed=1)
    write_report([path / "a", path / "b"], path)
    return path


@pytest.mark.parametrize("formats", [FORMATS, ("csv", "md")])
def test_writes_the_requested_formats(
    tmp_path: Path, make_run: MakeRun, formats: tuple[str, ...]
) -> None:
    run = make_run(tmp_path / "run")
    written = write_report([run], tmp_path / "deep" / "report", formats)
    expected = {f"report.{name}" for name in formats} | {"curves.svg", "curves.png"}
    assert {path.name for path in written} == expected
    assert sorted(written) == sorted((tmp_path / "deep" / "report").iterdir())
    assert all(path.stat().st_size > 500 for path in written)


def test_equal_runs_give_equal_bytes(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    run = make_run(tmp_path / "run")
    first = {path.name: path.read_bytes() for path in write_report([run], tmp_path / "a")}
    again = {path.name: path.read_bytes() for path in write_report([run], tmp_path / "b")}
    assert first == again
    assert "Written 1970-01-02 by mpdiag" in first["report.md"].decode()


FRACTIONS = {
    name: metric.label for name, metric in LAYER_METRICS.items() if metric.unit == "fraction"
}


def percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def expected_rows(path: Path) -> list[list[str]]:
    """Return the runs' cells in Table 1, and the rows of each run's metrics that are fractions."""
    runs = [Run.open(path / name).summary for name in "ab"]
    rows = [
        [percent(layer[name]) for layer in summary["layers"]]
        for summary in runs
        for name in ("miou_l", "util")
    ]
    for summary in runs:
        for name, label in FRACTIONS.items():
            first = summary["m0"].get(name)
            cells = [percent(layer[name]) for layer in summary["layers"]]
            rows.append([label, "" if first is None else percent(first), *cells])
    return rows


def written_rows(rows: list[list[str]]) -> list[list[str]]:
    """Return the same cells of a written report: `rows` are those of all its tables."""
    table1 = [row[2:] for row in rows if row[1].startswith(("mIoU-L", "Util"))]
    metrics = [row for row in rows if row[0] in FRACTIONS.values() and len(row) == 11]
    per_run = len(metrics) // 2  # half of them are rows of confidence intervals
    values = [metrics[run * per_run : run * per_run + len(FRACTIONS)] for run in range(2)]
    return table1[:4] + values[0] + values[1]


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def latex_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    return [line.removesuffix(r" \\").split(" & ") for line in lines]


def test_transitions_in_html_and_markdown(hostile: Path) -> None:
    page = Tables((hostile / "report.html").read_text())
    text = (hostile / "report.md").read_text()
    table = Run.open(hostile / "a").transitions()
    for name, meaning in TRANSITIONS.items():
        shares = [percent(share) for share in table[table["transition"] == name]["share"]]
        assert [f"{name}: {meaning}", "", *shares] in page.rows
        assert f"| {name}: {meaning} |  | {' | '.join(shares)} |" in text
    assert sum(row[0] == "Unmatched queries" for row in page.rows) == 1  # of the matching part


@pytest.mark.usefixtures("without_curves")
def test_csv_escapes_formulas(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "a", name="=1+1")
    write_report([run], tmp_path / "report", ("csv",))
    with (tmp_path / "report" / "report.csv").open() as stream:
        assert {row["run"] for row in csv.DictReader(stream) if row["source"] == "run"} == {"'=1+1"}


def test_values_of_html(hostile: Path) -> None:
    page = Tables((hostile / "report.html").read_text())
    assert written_rows(page.rows) == expected_rows(hostile)
    baseline = next(row for row in page.rows if row[0] == "Mask2Former (paper)")
    assert baseline[1:] == f"mIoU-Lⁱ 23.0 50.3 59.5 69.7 70.1 {UNAVAILABLE} 78.6 76.3 76.0".split()


def test_html_needs_no_other_file_and_runs_no_script(hostile: Path) -> None:
    text = (hostile / "report.html").read_text()
    page = Tables(text)
    assert not page.tags & {"script", "iframe", "object", "embed", "link", "form", "base", "svg"}
    assert not [name for name in page.attributes if name.startswith("on")]
    assert len(page.urls) == 1
    assert page.urls[0].startswith("data:image/svg+xml;base64,")
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    assert page.rows[1][0] == NAME


def test_values_of_markdown(hostile: Path) -> None:
    text = (hostile / "report.md").read_text()
    assert written_rows(markdown_rows(text)) == expected_rows(hostile)
    width: int | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.split(r"(?<!\\)\|", line))
        assert width in (None, cells), line
        width = cells
    assert "![mIoU-L and Util of each layer, for the runs and as published](curves.svg)" in text


def test_markdown_escapes_markup(hostile: Path) -> None:
    text = (hostile / "report.md").read_text()
    assert "<" not in text
    assert not re.search(r"(?<!\\)\[l", text)
    assert not re.search(r"(?<!\\)`", text)
    assert "\n# second" not in text
    assert r"\*b\*" in text


def test_values_of_latex(hostile: Path) -> None:
    text = (hostile / "report.tex").read_text()
    rows = latex_rows(text)
    assert written_rows(rows) == expected_rows(hostile)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1 + 2 * 4 + 1
    assert "Mask2Former (paper) & mIoU-L$^i$ & 23.0 & 50.3" in text
    assert "70.1 & -- & 78.6" in text


def test_latex_escapes_commands(hostile: Path) -> None:
    line = next(
        line
        for line in (hostile / "report.tex").read_text().splitlines()
        if line.startswith(r"\textless{}script")
    )
    assert (
        r"50\% \textbackslash{}input\{secret\} \$a\_b\textasciicircum{}c\$ \#1 "
        r"\textasciitilde{} \& | `q`" in line
    )
    assert line.count("{") - line.count(r"\{") == line.count("}") - line.count(r"\}")
    assert r" \# second line & mIoU-L" in line


@pytest.mark.usefixtures("without_curves")
def test_latex_reads_no_argument_from_a_name_after_a_line_break(
    tmp_path: Path, make_run: MakeRun
) -> None:
    for name in ("[a]", "*b"):
        write_report([make_run(tmp_path / name, name=name)], tmp_path / "report", ("tex",))
        text = (tmp_path / "report" / "report.tex").read_text()
        assert not re.search(r"(\\\\|rule|addlinespace)\s*[\[*]", text)
        assert ("\n{[}a] & " if name == "[a]" else "\n{*}b & ") in text


def test_csv_has_one_row_per_value_as_fractions(hostile: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((hostile / "report.csv").read_text(), newline="")))
    assert list(rows[0]) == ["source", "run", "part", "metric", "layer", "value"]
    run = Run.open(hostile / "a")
    found = {
        (row["metric"], int(row["layer"])): float(row["value"])
        for row in rows
        if row["run"] == NAME
    }
    expected = {
        (key, layer["layer"]): layer[key]
        for layer in run.summary["layers"]
        for key in layer
        if key != "layer"
    }
    first = {(key, 0): value for key, value in run.summary["m0"].items() if value is not None}
    assert found == {**expected, **first, ("util", 0): run.summary["util_m0"]}
    published = [row["value"] for row in rows if row["source"] == "paper"][:9]
    assert published == ["0.23", "0.503", "0.595", "0.697", "0.701", "", "0.786", "0.763", "0.76"]
