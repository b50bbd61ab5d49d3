"""mIoU-L and Util by group against loops over the rows, and the bootstrap."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mpdiag.errors import ConfigError, RunError
from mpdiag.store import Run
from mpdiag.store.bootstrap import interval, ratio
from mpdiag.store.groups import GroupBy
from mpdiag.store.layers import group_values, with_intervals

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    return make_run(path, images=14, queries=7, layers=3, shards=3)


@pytest.fixture
def run(path: Path) -> Run:
    return Run.open(path)


def test_group_all_equals_the_summary(run: Run) -> None:
    table = run.layers(resamples=20)
    assert table["group"].unique().tolist() == ["all"]
    assert table["util"][0] == pytest.approx(run.summary["util_m0"], abs=1e-12)
    assert np.isnan(table["miou_l"][0])
    for layer in run.summary["layers"]:
        row = table.iloc[layer["layer"]]
        assert row["miou_l"] == pytest.approx(layer["miou_l"], abs=1e-12)
        assert row["util"] == pytest.approx(layer["util"], abs=1e-12)
        assert row["miou_l_low"] <= row["miou_l"] <= row["miou_l_high"]


def group_of(by: str, target: pd.Series, num_gt: int) -> str:
    if by == "class":
        return ("disc", "square", "star")[target["label"]]
    if by == "size":
        sizes = ((1024, "small"), (9216, "medium"), (np.inf, "large"))
        return next(name for limit, name in sizes if target["pixels"] < limit)
    if by == "crowding":
        return "1 GT" if num_gt == 1 else "2-4 GT"
    covered = target["covered"]
    return "below 25%" if covered < 0.25 else "25-50%" if covered < 0.5 else "50% and more"


@pytest.mark.parametrize("by", ["class", "size", "crowding", "occlusion", "matched"])
def test_groups_equal_loops(run: Run, by: str) -> None:
    queries, targets = run.query("SELECT * FROM queries"), run.query("SELECT * FROM targets")
    num_gt = run.query("SELECT image_id, num_gt FROM images").set_index("image_id")["num_gt"]
    ious: dict[tuple[str, int], list[float]] = {}
    utils: dict[tuple[str, int], dict[int, list[bool]]] = {}
    group_of_gt = {
        (t["image_id"], t["gt"]): group_of(by, t, num_gt[t["image_id"]])
        for _, t in targets.iterrows()
        if by != "matched"
    }
    last = queries[queries["layer"] == 3].set_index(["image_id", "query"])["matched_gt"]
    for _, row in queries[queries["layer"] > 0].dropna(subset="iou_prev").iterrows():
        image, gt = int(row["image_id"]), last[int(row["image_id"]), int(row["query"])]
        group = group_of_gt.get((image, gt))
        if by == "matched":
            group = "matched" if gt >= 0 else "unmatched"
        if by == "crowding":
            n = num_gt[image]
            group = "no GT" if n == 0 else "1 GT" if n == 1 else "2-4 GT"
        if group:
            ious.setdefault((group, int(row["layer"])), []).append(row["iou_prev"])
    for _, target in targets.iterrows() if by != "matched" else ():
        owner = target["matched_query"]
        for layer in range(4):
            group = group_of_gt[target["image_id"], target["gt"]]
            of_image = utils.setdefault((group, layer), {}).setdefault(target["image_id"], [])
            of_image.append(owner[layer] == owner[-1] != -1)
    table = run.layers(by, resamples=10)  # type: ignore[arg-type]
    assert len(table) == 4 * len({group for group, _ in [*ious, *utils]})
    for _, row in table.iterrows():
        key = row["group"], row["layer"]
        values = ious.get(key, [])
        assert row["pairs"] == len(values)
        assert row["miou_l"] == pytest.approx(np.mean(values) if values else np.nan, nan_ok=True)
        shares = [np.mean(kept) for kept in utils.get(key, {}).values()]
        assert row["images"] == len(shares)
        assert row["util"] == pytest.approx(np.mean(shares) if shares else np.nan, nan_ok=True)
        spread = np.std(shares, ddof=1) if len(shares) > 1 else np.nan
        assert row["util_spread"] == pytest.approx(spread, nan_ok=True)


def test_results_depend_neither_on_parts_nor_on_repetition(
    tmp_path: Path, make_run: MakeRun, run: Run
) -> None:
    other = Run.open(make_run(tmp_path / "other", images=14, queries=7, layers=3, shards=5))
    for by in ("all", "class"):
        pd.testing.assert_frame_equal(run.layers(by), other.layers(by), check_exact=True)


def test_hard_assignment_of_the_piloted_part(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", images=8, layers=2, part="piloted")
    piloted = Run.open(path)
    table = piloted.layers("class", "hard", resamples=10)
    assert set(table["util"]) == {1.0}
    rows = piloted.query(
        "SELECT t.label, iou_prev FROM queries q JOIN targets t ON q.image_id = t.image_id AND "
        "q.query = t.gt WHERE layer = 2"
    )
    for number, name in enumerate(("disc", "square", "star")):
        expected = rows[rows["label"] == number]["iou_prev"].mean()
        found = table[(table["group"] == name) & (table["layer"] == 2)]["miou_l"].item()
        assert found == pytest.approx(expected, nan_ok=True)


def test_missing_columns_and_unknown_groups_are_errors(
    tmp_path: Path, make_run: MakeRun, run: Run
) -> None:
    with pytest.raises(RunError, match=r"is of the matching part, .* --part piloted$"):
        run.layers(assignment="hard")
    with pytest.raises(ConfigError, match="colour"):
        run.layers("colour")  # type: ignore[arg-type]
    old = make_run(tmp_path / "old")
    header = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps({**header, "schema_version": 1}))
    with pytest.raises(RunError, match=r"has no column targets\.pixels; analyse again"):
        Run.open(old).layers("size")
    with pytest.raises(RunError, match=r"has no column queries\.second_coverage; analyse"):
        Run.open(old).transitions()


def test_a_run_without_images_has_no_layers(tmp_path: Path, make_run: MakeRun) -> None:
    assert Run.open(make_run(tmp_path / "run", images=0)).layers().empty


def test_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    """For a mean over many images the interval is close to mean +- 1.96 s / sqrt(n)."""
    values = np.random.default_rng(3).normal(0.6, 0.1, (4000, 1))
    ones = np.ones_like(values)
    low, high = interval(4000, lambda times: ratio(times, values, ones), resamples=2000)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert low[0] == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high[0] == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_nothing_to_resample_is_nan() -> None:
    nothing = np.zeros((3, 2))
    low, high = interval(3, lambda times: ratio(times, nothing, nothing), resamples=5)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("by", ["all", "class", "crowding", "matched"])
def test_values_without_intervals_are_the_same(run: Run, by: GroupBy) -> None:
    expected = run.layers(by=by, resamples=1)
    found = group_values(run.image_sums(by))
    pd.testing.assert_frame_equal(found, expected[list(found)])


def test_classes_with_one_name_stay_apart(make_run: MakeRun, tmp_path: Path) -> None:
    """Duplicate names are valid in COCO annotations."""
    path = make_run(tmp_path / "run", images=5, layers=2)
    own = Run.open(path).image_sums("class")
    header = json.loads((path / "run.json").read_text())
    names = ("disc", "star", "disc")
    header["classes"] = [{"category_id": 10 * k, "name": name} for k, name in enumerate(names)]
    (path / "run.json").write_text(json.dumps(header))
    found = Run.open(path).image_sums("class")
    assert list(found) == ["disc (0)", "star", "disc (20)"]
    for sums, expected in zip(found.values(), own.values(), strict=True):
        np.testing.assert_array_equal(sums.gt, expected.gt)


def test_the_spread_of_a_count_is_that_of_the_counts_of_images() -> None:
    counts = np.array([[1.0], [0], [0], [4]])
    columns = with_intervals({"non_finite": (counts, np.full((4, 1), 1 / 4))}, 10)
    assert columns["non_finite"] == [5]  # a sum
    assert columns["non_finite_spread"] == pytest.approx(np.std(counts, ddof=1))
