"""The text of a diagnosis."""

from mpdiag.store.causes import CAUSES
from mpdiag.store.diagnosis import Diagnosis, Finding


def test_text_lists_score_and_findings() -> None:
    finding = Finding("class-head", 0.0264, (0.0012, 0.0518))
    found = Diagnosis(0.22049, [finding], 0.01, 1661, score_name="pq")
    assert str(found) == (
        "PQ 22.0 on 1,661 images. 1 cause costs more than 1 PQ.\n"
        f"class-head: +2.6 PQ (95% interval +0.1 to +5.2). {CAUSES['class-head'].remedy} "
        f"{CAUSES['class-head'].link}"
    )
    nothing = Diagnosis(0.22049, [], 0.005, 16)
    assert str(nothing) == "AP 22.0 on 16 images. Nothing found that costs more than 0.5 AP."
