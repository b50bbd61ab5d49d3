"""The Diagnosis page."""

import json
import shlex

import pytest
from plotly.io import from_json

from mpdiag.store import Run
from mpdiag.store.causes import CAUSES
from mpdiag.store.diagnosis import Diagnosis, Finding
from reports.findings import build_findings


@pytest.fixture
def run(make_run, tmp_path):
    return make_run(tmp_path / "one", seed=1)


def finding(cause, at_stake, **options):
    return Finding(cause, at_stake, (at_stake - 0.01, at_stake + 0.02), **options)


def texts(page):
    return [element.value for element in page.markdown]


def links(page):
    return [element.proto for element in page.get("page_link")]


def test_findings_with_their_images(run, open_page):
    image = int(Run.open(run).query("SELECT image_id FROM images")["image_id"][0])
    evidence = {"images": [image, 999_999, "x"], "dead_share": 0.25}
    first = finding("dead-queries", 0.1, queries=(3, 4), layers=(2,), evidence=evidence)
    findings = [first, finding("class-confusion", 0.04, classes=(0, 1))]
    Diagnosis(0.365, findings, 0.01, 40, [{"layer": 0, "ap": 0.1}]).write(run / "diagnosis.json")
    page = open_page(run, page="diagnosis")
    assert "**AP 36.5** on 40 images. 2 causes cost more than 1 AP." in texts(page)
    assert page.subheader[0].value == f"1. {CAUSES['dead-queries'].title}"
    assert "+9.0 to +12.0" in [caption.value for caption in page.caption]
    assert [metric.value for metric in page.metric] == ["+10.0", "+4.0"]
    assert any("Queries: 3, 4" in caption.value.replace("\\", "") for caption in page.caption)
    assert any(
        "Classes: disc, square" in caption.value.replace("\\", "") for caption in page.caption
    )
    (bars,) = from_json(page.get("plotly_chart")[0].proto.spec).data
    assert list(bars.x) == pytest.approx([10, 4])
    assert bars.y[0] == f"1. {CAUSES['dead-queries'].title}"
    assert list(bars.error_x.array) == pytest.approx([2, 2])
    assert list(bars.error_x.arrayminus) == pytest.approx([1, 1])
    (inspector,) = [link for link in links(page) if link.page == "inspector"]
    assert (
        inspector.query_string == f"image={image}&query=3&layer=2&run=one-matching-part&finding=1"
    )
    layers = page.dataframe[0].value
    assert layers["AP"].tolist() == ["10.0"]


def test_classes_are_those_of_the_diagnosis(run, open_page):
    found = [finding("class-confusion", 0.1, classes=(0, 1))]
    Diagnosis(0.4, found, 0.01, 7, class_names=("a", "b")).write(run / "diagnosis.json")
    page = open_page(run, page="diagnosis")
    assert any("Classes: a, b" in text.value.replace("\\", "") for text in page.caption)


def test_evidence_is_limited(run, open_page):
    evidence = {f"{k} {'x' * 3000}": "y" * 5000 for k in range(100)}
    Diagnosis(0.4, [finding("ranking", 0.1, evidence=evidence)], 0.01, 7).write(
        run / "diagnosis.json"
    )
    page = open_page(run, page="diagnosis")
    assert max(len(text.value) for text in page.caption) < 20 * 2500


def test_a_diagnosis_names_its_score(run, open_page):
    Diagnosis(0.365, [finding("late-layers", 0.1)], 0.01, 40, score_name="miou").write(
        run / "diagnosis.json"
    )
    page = open_page(run, page="diagnosis")
    assert "**mIoU 36.5** on 40 images. 1 cause costs more than 1 mIoU." in texts(page)
    assert page.metric[0].label == "mIoU at stake"


def test_inspector_links_to_the_finding_of_the_url(run, open_page):
    first = finding("dead-queries", 0.1, queries=(3,), evidence={"images": [4, 2]})
    Diagnosis(0.365, [first, finding("ranking", 0.04)], 0.01, 40).write(run / "diagnosis.json")

    def shown(place):
        page = open_page(run, page="inspector", image=2, finding=place)
        assert not page.error
        return [text for text in texts(page) if text.startswith("Finding")], page

    (title,), page = shown(1)
    assert title == f"Finding 1: **{CAUSES['dead-queries'].title}**"
    (back,) = [link for link in links(page) if link.label == "Back to the diagnosis"]
    assert (back.page, back.query_string) == ("", "run=one-matching-part")  # the first page
    images = [button for button in page.button if button.label.endswith("jpg")]
    assert [button.icon for button in images] == [":material/layers:", ":material/visibility:"]
    images[0].click().run()
    assert page.query_params == {
        "image": "4",
        "query": "3",
        "run": "one-matching-part",
        "finding": "1",
    }
    for place in ("0", "3", "x"):
        assert shown(place)[0] == []


def test_run_without_findings(run, open_page):
    Diagnosis(0.5, [], 0.02, 7).write(run / "diagnosis.json")
    page = open_page(run, page="diagnosis")
    assert "**AP 50.0** on 7 images. Nothing found that costs more than 2 AP." in texts(page)
    assert not page.get("plotly_chart") and not page.metric


def test_run_without_diagnosis_is_described_in_words(run, open_page):
    page = open_page(run, page="diagnosis")
    assert "no diagnosis" in page.info[0].value
    assert page.code[0].value.splitlines() == [
        f"mpdiag diagnose {run}",
        f"mpdiag diagnose CHECKPOINT --run {run}",
    ]
    (section, *_) = build_findings(Run.open(run)).sections
    shown = "\n".join(texts(page))
    for highlight in section.highlights:
        assert f"- **{highlight.label}: {highlight.value}**, {highlight.text}" in shown.replace(
            "\\", ""
        )
    assert [link.page for link in links(page)] == ["overview"]


def test_commands_name_the_checkpoint_of_the_run_where_it_is(run, open_page, tmp_path):
    checkpoint = tmp_path / "my model.pth"
    checkpoint.touch()
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(header | {"checkpoint": {"path": str(checkpoint)}}))
    page = open_page(run, page="diagnosis")
    command = page.code[0].value.splitlines()[1]
    assert shlex.split(command) == ["mpdiag", "diagnose", str(checkpoint), "--run", str(run)]


@pytest.mark.parametrize(
    ("change", "commands"),
    [
        ({"part": "piloted"}, []),
        ({"task": "panoptic"}, ["mpdiag diagnose CHECKPOINT --run {run}"]),
        (
            {"dataset": {"annotation_file": "gtFine"}},
            [
                "mpdiag diagnose {run} --dataset DATASET",
                "mpdiag diagnose CHECKPOINT --run {run} --dataset DATASET",
            ],
        ),
    ],
)
def test_only_commands_that_work_are_shown(run, open_page, change, commands):
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(header | change))
    page = open_page(run, page="diagnosis")
    shown = [line for code in page.code for line in code.value.splitlines()]
    assert shown == [command.format(run=run) for command in commands]


@pytest.mark.parametrize("change", [{"score": 3}, {"findings": [{"cause": "x"}]}, {"findings": 4}])
def test_damaged_diagnosis_is_an_error_of_this_page(run, open_page, change):
    Diagnosis(0.5, [finding("ranking", 0.1)], 0.01, 7).write(run / "diagnosis.json")
    content = json.loads((run / "diagnosis.json").read_text())
    (run / "diagnosis.json").write_text(json.dumps(content | change))
    page = open_page(run, page="diagnosis")
    assert "diagnosis.json: is no diagnosis" in page.error[0].value.replace("\\", "")
