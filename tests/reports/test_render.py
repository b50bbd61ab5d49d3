"""Each format is parsed back and compared with the summaries."""

import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mpdiag.store import Run
from mpdiag.store.consistency import COLUMNS
from mpdiag.store.transitions import TRANSITIONS
from reports.formatting import UNAVAILABLE
from reports.report import write_report

MakeRun = Callable[..., Path]

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(2)> \"q\" 'q' {{ 7*7 }} <% 7*7 %> << 7 >> "
    "50% \\input{secret} $a_b^c$ #1 ~ & | `q` [l](javascript:x) *b*\n# second\nline"
)


class Tables(HTMLParser):
    """The texts of all table rows, all tags, and the addresses that the page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
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
    """A directory with the report of a run whose every text is hostile, and of a plain one."""
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


FURTHER = {*TRANSITIONS, *(f"{kind}: {what}" for kind, what in TRANSITIONS.items()),
           *(column.label for column in COLUMNS.values()), "kept, both empty",
           "mIoU-L: half of its interval", "Util: half of its interval"}  # fmt: skip


def test_further_tables_in_both_forms(hostile: Path) -> None:
    page = Tables((hostile / "report.html").read_text())
    text = (hostile / "report.md").read_text()
    run = Run.open(hostile / "a")
    found = run.transitions()
    for kind, what in TRANSITIONS.items():
        rows = found[found["transition"] == kind]
        shares = [f"{100 * share:.1f}" for share in rows["share"]]
        assert [f"{kind}: {what}", "", *shares] in [[row[0], *row[1:]] for row in page.rows]
        assert f"| {kind}: {what} |  | {' | '.join(shares)} |" in text
    for key in ("empty_masks", "matched_iou"):
        cells = [f"{100 * layer[key]:.1f}" for layer in [run.summary["m0"], *run.summary["layers"]]]
        assert [COLUMNS[key].label, *cells] in page.rows
    assert sum(row[0] == "Never matched" for row in page.rows) == 1  # of the matching part alone


def percents(run: Run, key: str) -> list[str]:
    return [f"{100 * layer[key]:.1f}" for layer in run.summary["layers"]]


def expected_rows(path: Path) -> list[list[str]]:
    """Numbers of Table 1's first four rows and of the two runs' tables of conventions."""
    runs = [Run.open(path / name) for name in "ab"]
    rows = [percents(run, key) for run in runs for key in ("miou_l", "util")]
    for run in runs:
        rows += [percents(run, key) for key in ("miou_l", "miou_l_empty0", "miou_l_empty1")]
        rows += [percents(run, key) for key in ("miou_l_matched", "empty_pairs")]
        rows.append([f"{100 * run.summary['util_m0']:.1f}", *percents(run, "util")])
    return rows


def numbers(row: list[str]) -> list[str]:
    return [cell for cell in row if re.fullmatch(r"\d+\.\d", cell)]


def measured(rows: list[list[str]]) -> list[list[str]]:
    """Rows of figures without the six of the paper and those of further tables."""
    rows = [row for row in rows if row[0] not in FURTHER]
    found = [numbers(row) for row in rows if len(numbers(row)) > 3]
    return found[:4] + found[10:]


def test_a_name_is_no_formula_in_the_csv(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "a", name="=1+1")
    write_report([run], tmp_path / "report", ("csv",))
    with (tmp_path / "report" / "table1.csv").open() as stream:
        assert {row["run"] for row in csv.DictReader(stream) if row["source"] == "run"} == {"'=1+1"}


def test_html_shows_every_figure(hostile: Path) -> None:
    page = Tables((hostile / "report.html").read_text())
    assert measured(page.rows) == expected_rows(hostile)
    baseline = next(row for row in page.rows if row[0] == "Mask2Former (paper)")
    assert baseline[1:] == f"mIoU-Lⁱ 23.0 50.3 59.5 69.7 70.1 {UNAVAILABLE} 78.6 76.3 76.0".split()


def test_html_is_one_inert_file(hostile: Path) -> None:
    text = (hostile / "report.html").read_text()
    page = Tables(text)
    assert not page.tags & {"script", "iframe", "object", "embed", "link", "form", "base", "svg"}
    assert not [name for name in page.attributes if name.startswith("on")]
    assert len(page.addresses) == 1
    assert page.addresses[0].startswith("data:image/svg+xml;base64,")
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    assert page.rows[1][0] == HOSTILE


def test_markdown_shows_every_figure(hostile: Path) -> None:
    text = (hostile / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert measured(rows) == expected_rows(hostile)
    width: int | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.split(r"(?<!\\)\|", line))
        assert width in (None, cells), line
        width = cells
    assert "![mIoU-L and Util of each layer](curves.png)" in text


def test_markdown_holds_no_markup_of_a_name(hostile: Path) -> None:
    text = (hostile / "report.md").read_text()
    assert "<" not in text
    assert not re.search(r"(?<!\\)\[l", text)
    assert not re.search(r"(?<!\\)`", text)
    assert "\n# second" not in text
    assert r"\*b\*" in text


def test_latex_shows_every_figure(hostile: Path) -> None:
    lines = (hostile / "table1.tex").read_text().splitlines()
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r" \\")]
    assert measured(rows) == expected_rows(hostile)
    assert {len(row) for row in rows} == {11}
    text = "\n".join(lines)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3
    assert r"\textbf{Mask2Former} (paper) & mIoU-L$^i$ & 23.0 & 50.3" in text
    assert "70.1 & -- & 78.6" in text


def test_latex_escapes_every_special(hostile: Path) -> None:
    line = next(
        line
        for line in (hostile / "table1.tex").read_text().splitlines()
        if line.startswith(r"\textbf{\textless{}script")
    )
    assert (
        r"50\% \textbackslash{}input\{secret\} \$a\_b\textasciicircum{}c\$ \#1 "
        r"\textasciitilde{} \& | `q`" in line
    )
    assert line.count("{") - line.count(r"\{") == line.count("}") - line.count(r"\}")
    assert " \\# second line}" in line


def test_csv_holds_fractions_in_long_form(hostile: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((hostile / "table1.csv").read_text(), newline="")))
    assert list(rows[0]) == ["source", "run", "part", "metric", "layer", "value"]
    run = Run.open(hostile / "a")
    found = {
        (row["metric"], int(row["layer"])): float(row["value"])
        for row in rows
        if row["run"] == HOSTILE
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
