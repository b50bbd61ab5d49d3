"""Rows of the paper's tables: what each is called, which training it is, where the paper has it."""

from dataclasses import dataclass

from mpdiag.config import Published


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row; `training` is a name in `mpdiag.reproduce.experiments`.

    `paper` is where the paper has the row, `beside` where it has it on another data set.
    """

    label: str
    training: str
    paper: Published | None = None
    beside: Published | None = None


def _table4(row: int) -> Published:
    return Published(table="table4_components_coco_r50_ap", row={"row": row}, results=("ep12",))


def _of(table: str, group: str, label: str) -> Published:
    return Published(table=f"{table}_coco_r50_12ep_ap", row={group: label}, results=("AP",))


def _table7(method: str) -> Published:
    results = ("AP", "AP_S", "AP_M", "AP_L", "params", "flops", "fps")
    return Published(table="table7_coco_r50_12ep", row={"method": method}, results=results)


def table3(data: str, method: str) -> Published:
    """The R50 row of a method on a data set."""
    row = {"data": data, "method": method, "backbone": "R50"}
    results = ("AP", "AP_S", "AP_M", "AP_L", "hours_ins")
    return Published(table="table3_training_length", row=row, results=results)


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
            beside=table3("ADE20K", "Mask2Former"),
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
        TableRow("First layer", "mp-first-layer", _of("table5", "layers", "first layer")),
        TableRow(
            "First three layers", "mp-label-noise", _of("table5", "layers", "first three layers")
        ),
        TableRow("All layers", "mp-all-layers", _of("table5", "layers", "all layers")),
        TableRow("No noise", "mp-label-noise", _of("table5", "noise", "no noise")),
        TableRow("Point noise", "mp-point-noise", _of("table5", "noise", "point")),
        TableRow("Shifting", "mp-shift-noise", _of("table5", "noise", "shifting")),
        TableRow("Scaling", "mp-scale-noise", _of("table5", "noise", "scaling")),
    ),
    "table6": (
        TableRow("Coarse to fine", "mp-all-layers", _of("table6", "feature map", "coarse to fine")),
        TableRow("All large", "mp-all-large", _of("table6", "feature map", "all large")),
        TableRow("Matched", "mp-match", _of("table6", "assignment in MP part", "match")),
        TableRow(
            "Hard assignment",
            "mp-label-noise",
            _of("table6", "assignment in MP part", "hard assignment"),
        ),
    ),
    "table7": (
        TableRow("Mask2Former", "baseline", _table7("Mask2Former")),
        TableRow("Fixed matching scheme", "fixed-matching", _table7("Fixed matching scheme")),
        TableRow("Auxiliary loss", "auxiliary-loss", _table7("Auxiliary loss")),
    ),
    "figure1": (TableRow("Mask2Former", "baseline"),),
    "figure4": (),
}
"""Rows of all that can be asked for; Figure 4 needs no training."""

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
"""Table 3 at the size of the paper, where it has two data sets."""
