"""Table of the MP part's masks: whether those that change most come closer to their objects."""

from collections.abc import Sequence

from mpdiag.store import Run
from reports.document import Row, Table
from reports.formatting import NO_VALUE, format_difference
from reports.reproduction.results import PILOTED, TrainingResults
from reports.reproduction.seed_statistics import seed_statistics
from reports.reproduction.table_rows import TableRow

_GAINS = """
    WITH layers AS (
        SELECT image_id, query, layer, iou_prev, fed_gt_iou
            - lag(fed_gt_iou) OVER (PARTITION BY image_id, query ORDER BY layer) AS gain
        FROM queries
    ), thirds AS (
        SELECT layer, gain,
            ntile(3) OVER (PARTITION BY layer ORDER BY iou_prev, image_id, query) AS third
        FROM layers WHERE gain IS NOT NULL AND iou_prev IS NOT NULL
    )
    SELECT layer, third, sum(gain ORDER BY gain) / count(*) FROM thirds GROUP BY layer, third
"""


def gains_by_change(run: Run) -> dict[tuple[int, int], float]:
    """Return the mean gain of IoU by layer and third of the masks, for a run of the MP part.

    The gain of a query in a layer is the IoU of its mask with the GT from which it was made, minus
    that of the layer before. Third 1 has the masks that change most (lowest IoU with the mask of
    the layer before), third 3 those that change least.
    """
    rows = run.query(_GAINS).itertuples(index=False, name=None)
    return {(int(layer), int(third)): float(gain) for layer, third, gain in rows}


def mask_changes(rows: Sequence[TableRow], results: TrainingResults, layers: range) -> Table | None:
    """Return the gain of the masks that change most and least; None without a run of the MP part.

    It can refute that masks change because they improve: then the first would gain no more.
    """
    lines = []
    for row in rows:
        gains = [
            gains_by_change(run)
            for (name, _, part), run in results.runs.items()
            if (name, part) == (row.training, PILOTED)
        ]
        if not gains:
            continue
        for third, label in ((1, "most"), (3, "least")):
            cells = []
            for layer in layers:
                mean = seed_statistics(one.get((layer, third)) for one in gains)
                cells.append(NO_VALUE if mean is None else format_difference(mean.mean))
            starts_group = third == 1
            name = row.label if starts_group else ""
            lines.append(Row((name, f"change {label}", *cells), starts_group=starts_group))
    if not lines:
        return None
    note = (
        "Percentage points, mean over seeds; not in the paper. Gain of IoU with the query's own GT "
        "over the layer before, for the third of the masks with the lowest and with the highest "
        "IoU with the mask of the layer before. Where masks change because they improve, the first "
        "gain more."
    )
    columns = ("", "Layer", *map(str, layers))
    title = "MP part: gain of the masks that change most and least"
    return Table(title, columns, tuple(lines), note, label_columns=2)
