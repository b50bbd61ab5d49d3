from mpdiag.config import PaperResult
from reports import paper


def test_table1_as_published() -> None:
    """Values of the paper's Table 1; None if not available."""
    baseline, first, every = paper.table1()
    assert baseline.model == "Mask2Former"
    assert baseline.miou_l == (0.23, 0.503, 0.595, 0.697, 0.701, None, 0.786, 0.763, 0.76)
    assert baseline.util == (0.381, 0.655, 0.708, 0.735, 0.785, None, 0.832, 0.832, 1)
    assert first.miou_l[2] is None and first.util[0] == 0.94
    assert every.model == "Multi-layer MP"
    assert every.miou_l == (0.513, 0.878, 0.888, 0.975, None, 0.962, 0.99, 0.988, 0.982)
    assert [row.part for row in (first, every)] == ["piloted"] * 2


def test_results_as_published() -> None:
    """Values of the paper's Tables 2, 4, 5 and 6."""
    row = {"method": "MP-Former", "backbone": "R50"}
    results = ("PQ", "AP_Th_pan", "mIoU_pan")
    found = paper.published_results(
        PaperResult(table="table2_ade20k_val", row=row, results=results)
    )
    assert found == {"PQ": 40.8, "AP_Th_pan": 27.1, "mIoU_pan": 48.3}
    for table, where, column, figure in [
        ("table4_components_coco_r50_ap", {"row": 3}, "ep50", 44.2),
        ("table5_coco_r50_12ep_ap", {"noise": "shifting"}, "AP", 39.6),
        ("table6_coco_r50_12ep_ap", {"assignment in MP part": "match"}, "AP", 39.4),
        ("cityscapes_val", {}, "AP", None),
    ]:
        reference = PaperResult(table=table, row=where, results=(column,))
        assert paper.published_results(reference) == {"AP": figure}
