"""The page of a diagnosis shows what was measured, and nothing where nothing was."""

from dataclasses import replace

from mpdiag.store.diagnosis import Diagnosis, Finding
from reports.diagnosis import build_diagnosis, error_costs, finding_facts, found_objects


def _diagnosis(layer, **evidence):
    return Diagnosis(0.25, [], 0.01, 40, [{"layer": 3, "ap": 0.25, **layer}], evidence)


def test_measurements_of_a_model():
    layer = {"attention_recall": 0.5, "queries_per_gt": 1.234, "multiply_adds": 71_234_000_000}
    diagnosis = _diagnosis(layer, recall_any_layer=0.75, flip_gain=-0.021, images_of_gains=16)
    section = build_diagnosis(diagnosis, "model").sections[-1]
    scores, model = section.tables
    assert dict(zip(scores.columns, scores.rows[0].cells, strict=True))["AP"] == "25.0"
    cells = dict(zip(model.columns, model.rows[0].cells, strict=True))
    assert cells == {
        "Layer": "3", "Attention recall": "50.0", "Attention precision": "n/a",
        "GT without a cell": "n/a", "Queries per GT": "1.23", "bfloat16": "n/a", "float16": "n/a",
        "G multiply-adds": "71.2",
    }  # fmt: skip
    assert section.facts == (
        ("GT that any layer finds", "75.0%"),
        ("AP gained by images flipped left to right", "-2.1"),
    )


def test_a_run_has_no_table_of_its_model():
    section = build_diagnosis(_diagnosis({}), "run").sections[-1]
    assert len(section.tables) == 1 and section.facts == ()


def test_values_of_a_finding_that_are_not_known_are_shown_as_such():
    evidence = {"largest_output": [1.25, 0.0, None]}
    facts = dict(finding_facts(Finding("self-attention", 0.05, (0.02, 0.08), evidence=evidence)))
    assert facts["Largest output"] == "1.25, 0, n/a"


def test_what_the_last_layer_finds():
    def text(recall, images):
        diagnosis = Diagnosis(0.1, [], 0.01, images, evidence={"recall_last_layer": recall})
        return found_objects(diagnosis)

    assert text(0.834, 50) == "The last layer finds 83% of the objects (IoU 0.5, right class)."
    assert "finds 8% of the objects" in text(0.083, 50) and "mpdiag data check" in text(0.083, 50)
    assert text(0.5, 3).endswith("3 images are few: other images may give other causes.")
    assert text(None, 3) == ""
    layers, recall = [{"best_threshold": 0.35}], {"recall_last_layer": 0.5}
    found = Diagnosis(0.1, [], 0.01, 50, layers, recall)
    assert found_objects(found).endswith(
        "right class). The score threshold with the highest F1 is 0.35."
    )
    assert "threshold" not in found_objects(
        replace(found, score_name="pq")
    )  # its masks are disjoint
    found = Diagnosis(0.1, [], 0.01, 3, evidence={"recall_last_layer": 0.083})
    assert text(0.083, 3) in build_diagnosis(found, "model").sections[0].text


def test_the_page_names_the_score_of_the_task():
    finding = Finding("late-layers", 0.05, (0.02, 0.08), layers=(3,))
    layers = [{"layer": 3, "pq": 0.41, "ap": 0.25, "missed": 0.3}]
    diagnosis = Diagnosis(0.41, [finding], 0.01, 40, layers, {"flip_gain": 0.01}, "pq")
    summary, found, scores = build_diagnosis(diagnosis, "model").sections
    assert summary.text[0].startswith("PQ 41.0 on 40 images. The PQ at stake is")
    assert summary.text[1] == "1 cause costs more than 1 PQ."
    assert found.title.endswith(": +5.0 PQ") and found.facts[0][0] == "PQ at stake"
    cells = dict(zip(scores.tables[0].columns, scores.tables[0].rows[0].cells, strict=True))
    assert cells["PQ"] == "41.0" and "mIoU" not in cells
    assert scores.facts == (("PQ gained by images flipped left to right", "+1.0"),)
    assert not error_costs(diagnosis)
