"""Rows of the paper's tables: label, training, and the published result."""

from dataclasses import dataclass

from mpdiag.config import PaperResult


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table.

    Attributes:
        training: name in `mpdiag.reproduce.experiments`.
        paper: the published row.
        also_paper: the published row on another data set.
        group: what the rows of this part of the table differ in.
    """

    label: str
    training: str
    paper: PaperResult | None = None
    also_paper: PaperResult | None = None
    group: str = ""


def _table4(row: int) -> PaperResult:
    return PaperResult(table="table4_components_coco_r50_ap", row={"row": row}, results=("ep12",))


def _grouped_row(
    table: str, group: str, label: str, training: str, paper_label: str = ""
) -> TableRow:
    """Return a row of a table with groups; `paper_label` is the paper's label if it differs."""
    row = {group: paper_label or label.lower()}
    published = PaperResult(table=f"{table}_coco_r50_12ep_ap", row=row, results=("AP",))
    return TableRow(label, training, published, group=group[0].upper() + group[1:])


def _table7(method: str) -> PaperResult:
    results = ("AP", "AP_S", "AP_M", "AP_L", "params", "flops", "fps")
    return PaperResult(table="table7_coco_r50_12ep", row={"method": method}, results=results)


def table3(data: str, method: str) -> PaperResult:
    """Return the published R50 row of a method on a data set."""
    row = {"data": data, "method": method, "backbone": "R50"}
    results = ("AP", "AP_S", "AP_M", "AP_L", "hours_ins")
    return PaperResult(table="table3_training_length", row=row, results=results)


TABLES: dict[str, tuple[TableRow, ...]] = {
    "table1": (
        TableRow("Mask2Former", "baseline"),
        TableRow("MP training", "mp-first-layer"),
        TableRow("Multi-layer MP", "mp-all-layers"),
    ),
    "table3": (
        TableRow(
            "Mask2Former",
            "baseline",
            table3("COCO", "Mask2Former"),
            also_paper=table3("ADE20K", "Mask2Former"),
        ),
        TableRow("MP-Former, 72% of the steps", "mp-72-percent", table3("COCO", "MP-Former")),
        TableRow("MP-Former, half of the steps", "mp-half", table3("ADE20K", "MP-Former")),
    ),
    "table4": (
        TableRow("1: Mask2Former", "baseline", _table4(1)),
        TableRow("2: 1 + MP training on 3 layers", "mp-no-noise", _table4(2)),
        TableRow("3: 2 + label noise", "mp-label-noise", _table4(3)),
        TableRow("4: 3 + point noise", "mp-point-noise", _table4(4)),
        TableRow("5: 4 + all-layer MP", "mp-all-layers", _table4(5)),
    ),
    "table5": (
        _grouped_row("table5", "layers", "First layer", "mp-first-layer"),
        _grouped_row("table5", "layers", "First three layers", "mp-label-noise"),
        _grouped_row("table5", "layers", "All layers", "mp-all-layers"),
        _grouped_row("table5", "noise", "No noise", "mp-label-noise"),
        _grouped_row("table5", "noise", "Point noise", "mp-point-noise", "point"),
        _grouped_row("table5", "noise", "Shifting", "mp-shift-noise"),
        _grouped_row("table5", "noise", "Scaling", "mp-scale-noise"),
    ),
    "table6": (
        _grouped_row("table6", "feature map", "Coarse to fine", "mp-all-layers"),
        _grouped_row("table6", "feature map", "All large", "mp-all-large"),
        _grouped_row("table6", "assignment in MP part", "Matched", "mp-match", "match"),
        _grouped_row("table6", "assignment in MP part", "Hard assignment", "mp-label-noise"),
    ),
    "table7": (
        TableRow("Mask2Former", "baseline", _table7("Mask2Former")),
        TableRow("Fixed matching scheme", "fixed-matching", _table7("Fixed matching scheme")),
        TableRow("Auxiliary loss", "auxiliary-loss", _table7("Auxiliary loss")),
    ),
    "attention": (
        TableRow("Mask2Former", "baseline"),
        TableRow("Mask2Former without masked attention", "unmasked"),
        TableRow("MP-Former", "mp-all-layers"),
        TableRow("MP-Former without masked attention", "mp-unmasked"),
    ),
    "noise": (
        TableRow("No noise", "mp-label-noise"),
        TableRow("Point noise", "mp-point-noise"),
        TableRow("Cell noise", "mp-cell-noise"),
        TableRow("Neighbour noise", "mp-neighbour-noise"),
    ),
    "query-input": (
        TableRow("Mask2Former", "baseline"),
        TableRow("GT masks as attention masks", "mp-all-layers"),
        TableRow("Mean feature within the mask as query", "mp-feature-mean"),
        TableRow("16 x 16 mask through an MLP as position query", "mp-mask-code"),
    ),
    "figure1": (TableRow("Mask2Former", "baseline"),),
    "figure4": (),
}
"""Target of `mpdiag reproduce` -> rows; Figure 4 needs no training."""

OTHER_TARGETS = ("attention", "noise", "query-input")
"""Targets that are no table or figure of the paper."""

TABLE3_AS_PUBLISHED: tuple[TableRow, ...] = (
    TableRow(
        "COCO: Mask2Former, 50 epochs", "coco-mask2former-50-epochs", table3("COCO", "Mask2Former")
    ),
    TableRow("COCO: MP-Former, 36 epochs", "coco-mp-former-36-epochs", table3("COCO", "MP-Former")),
    TableRow(
        "ADE20K: Mask2Former, 160k steps",
        "ade20k-mask2former-160k",
        table3("ADE20K", "Mask2Former"),
    ),
    TableRow("ADE20K: MP-Former, 80k steps", "ade20k-mp-former-80k", table3("ADE20K", "MP-Former")),
)
"""Rows of Table 3 at size paper, on two data sets."""
