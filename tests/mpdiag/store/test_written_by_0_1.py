"""Runs that version 0.1 wrote (schema version 3) open with the current names and equal values."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mpdiag.store import LAYER_METRICS, Run, compare

RUNS = Path(__file__).parents[2] / "fixtures" / "written_by_0_1"


@pytest.fixture(params=["analysis-matching", "analysis-piloted"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUNS / request.param, tmp_path / "run"))


def test_metrics_equal_the_stored_summary_bit_by_bit(path: Path) -> None:
    run = Run.open(path)
    table = run.layer_metrics()
    stored = [{"layer": 0, **run.summary["m0"]}, *run.summary["layers"]]
    assert table["layer"].tolist() == [row["layer"] for row in stored]
    for row, values in zip(stored, table.to_dict("records"), strict=True):
        for name in LAYER_METRICS.keys() & row.keys():
            found = None if values[name] != values[name] else values[name]  # NaN
            assert found == row[name], name


def test_old_column_names_are_translated() -> None:
    run = Run.open(RUNS / "analysis-matching")
    stored = pq.read_table(RUNS / "analysis-matching" / "masks").to_pandas()
    kept = run.query("SELECT change_score FROM masks")["change_score"]
    assert kept.dropna().tolist() == stored["badness"].dropna().tolist() != []
    assert "badness" not in run.query("SELECT * FROM masks LIMIT 0")
    assert run.header["architecture"]["num_heads"] == 2


def test_masks_attention_and_transitions_are_readable() -> None:
    run = Run.open(RUNS / "analysis-matching")
    image, query = run.query("SELECT image_id, index FROM masks WHERE kind = 'query'").iloc[0]
    assert len(run.masks(image, query)) == run.num_layers + 1
    assert len(run.attention(image, query)) == run.num_layers
    assert run.transitions()["count"].sum() > 0
    assert run.image(image).suffix == ".jpg"


def test_it_compares_with_runs_of_other_schema_versions(path: Path) -> None:
    other = Path(shutil.copytree(path, path.with_name("older")))
    header = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**header, "schema_version": 1}))
    shutil.rmtree(other / "aggregates")
    found = compare(Run.open(path), Run.open(other))
    assert not found.layers["difference"].dropna().any() and len(found.layers)
    assert found.settings == {}


def test_versions_compare_if_one_lacks_columns(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    """A metric of a column that one run lacks is left out."""
    paths = [make_run(tmp_path / name, images=6) for name in "ab"]
    for file in (paths[0] / "queries").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["margin"]), file)
    shutil.rmtree(paths[0] / "aggregates")
    header = json.loads((paths[0] / "run.json").read_text())
    (paths[0] / "run.json").write_text(json.dumps({**header, "schema_version": 1}))
    found = compare(Run.open(paths[0]), Run.open(paths[1]))
    assert set(found.layers["metric"]) == LAYER_METRICS.keys() - {"margin"}
    assert not found.layers["difference"].dropna().any()
