"""Checks of a run directory, whose files may be damaged or made by someone else.

They bound the work of later queries and ensure what the code relies on; they do not recompute
metrics.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb

SUMMARY_COUNTS = ("num_images", "num_gt", "num_queries", "num_layers")

MAX_IMAGES = 10_000_000
MAX_GT = 10_000  # on average per image
MAX_LAYERS = 1000
MAX_QUERIES = 1 << 15
MAX_SIDE = 65_535  # of an image in pixels, as in a data set
MAX_PIXELS = 178_956_970

_HEADER_SECTIONS = (
    "checkpoint", "architecture", "dataset", "settings", "versions", "timings",
)  # fmt: skip
_LISTS = {"images": ("util",), "targets": ("matched_query", "best_query", "best_query_iou")}
_SUMMARY_SECTIONS = ("m0", "oracle", "ap", "pq", "miou", "ap_gains")
DETECTIONS = 100  # of an image and layer at least: instance inference keeps the best 100


def with_sections(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return run.json with all sections; those that are missing or no mappings are empty."""
    sections = {key: header.get(key) for key in _HEADER_SECTIONS}
    valid = {key: value if isinstance(value, dict) else {} for key, value in sections.items()}
    return {**header, **valid}


def is_summary(summary: Mapping[str, Any]) -> bool:
    """Return whether summary.json has all counts and layers, and numbers where they belong."""
    layers, scores = summary.get("layers"), summary.get("layer_scores") or []
    return (
        isinstance(layers, list)
        and isinstance(scores, list)
        and all(type(summary.get(key)) is int and summary[key] >= 0 for key in SUMMARY_COUNTS)
        and summary["num_layers"] == len(layers) <= MAX_LAYERS
        and all(isinstance(entry, dict) for entry in (*layers, *scores))
        and all(isinstance(summary.get(key), dict | None) for key in _SUMMARY_SECTIONS)
        and all({"miou_l", "util"} <= layer.keys() for layer in layers)
        and _numbers_of(layers) == list(range(1, len(layers) + 1))
        and _numbers_of(scores) in ([], list(range(len(layers) + 1)))
        and all(_are_numbers(entry.values()) for entry in (*layers, *scores))
        and all(_are_numbers((summary.get(key) or {}).values()) for key in _SUMMARY_SECTIONS)
        and _is_query_use(summary.get("query_use"))
    )


def check_rows(
    connection: duckdb.DuckDBPyConnection,
    summary: Mapping[str, Any],
    aggregates: Iterable[str],
    num_classes: int,
) -> None:
    """Compare the numbers of rows, the layers and the image ids with the summary.

    Args:
        connection: the rows and the views of mpdiag.store.aggregates.
        summary: content of summary.json, for which `is_summary` holds.
        aggregates: names of the views that read a stored file.
        num_classes: number of classes in run.json.

    Raises:
        ValueError: they do not fit.
    """
    images, gts, queries, layers = (summary[key] for key in SUMMARY_COUNTS)
    if images > MAX_IMAGES or gts > images * MAX_GT or queries > MAX_QUERIES:
        raise ValueError("summary.json has counts that are too high")
    predictions = images * queries * (layers + 1)
    # Masks of instances, panoptic segments, or a class map with a mask for each class.
    detections = max(DETECTIONS, queries, num_classes)
    limits = {
        "images": images,
        "targets": gts,
        "queries": predictions,
        "detections": images * detections * (layers + 1),
        "masks": predictions + gts,
        "attention": predictions,
        # `image_transitions` has a row per kind of transition.
        **{name: 10 * images * (layers + 1) for name in aggregates},
    }
    counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in limits)
    counted = dict(connection.execute(counts).fetchall())  # Parquet files store the number of rows
    for table, limit in limits.items():
        rows = counted[table]
        if rows > limit or (table == "images" and rows < limit):
            raise ValueError(f"{rows:,} rows of {table} do not fit summary.json")
    _check_images(connection, images, layers)
    _check_keys(connection, "queries", "query", queries, layers)
    _check_keys(connection, "targets", "gt", gts, layers)
    for table in aggregates:
        unknown, outside = _values(
            connection,
            "count(*) FILTER (images.image_id IS NULL), "
            f"count(*) FILTER (layer IS NULL OR layer NOT BETWEEN 0 AND {layers}) "
            f"FROM {table} LEFT JOIN images USING (image_id)",
        )
        if unknown:
            raise ValueError(f"{table} has rows of an unknown image")
        if outside:
            raise ValueError(f"{table} has rows of an unknown layer")
    sizes = "SELECT count(*) AS size FROM detections GROUP BY image_id, layer"
    (most,) = _values(connection, f"coalesce(max(size), 0) FROM ({sizes})")
    if most > detections:  # they are read image by image
        raise ValueError(f"an image has more than {detections} detections in a layer")


def _check_images(connection: duckdb.DuckDBPyConnection, images: int, layers: int) -> None:
    too_large = " OR ".join(
        f"greatest({name}height, {name}width) > {MAX_SIDE} "
        f"OR {name}height::BIGINT * {name}width > {MAX_PIXELS}"
        for name in ("", "input_")
    )
    ids, large, longest = _values(
        connection,
        "count(DISTINCT image_id) FILTER (image_id >= 0), "
        f"count(*) FILTER ({too_large}), {_longest('images')} FROM images",
    )
    if ids < images:
        raise ValueError("an image is in more than one part, or has no id")
    if large:  # they bound the run lengths that are read
        raise ValueError("an image is larger than an image file can be")
    _check_length("images", longest, layers)


def _check_keys(
    connection: duckdb.DuckDBPyConnection, table: str, key: str, limit: int, layers: int
) -> None:
    """Check the images, layers, keys 0..limit - 1 and lists of a table.

    Joins would multiply the rows of a query or GT that is listed twice in an image and layer.
    """
    has_layers = table == "queries"
    listed_in = "image_id, layer" if has_layers else "image_id"
    # Faster than count(DISTINCT).
    different = f"bit_count(bit_or(1::UBIGINT << ({key} & 63)::UBIGINT))"
    blocks = (
        f"SELECT {listed_in}, count(*) AS size, count({key}) AS present, min({key}) AS low, "
        f"max({key}) AS high, {different} AS different, {_longest(table)} AS longest "
        f"FROM {table} GROUP BY {listed_in}, {key} // 64"
    )
    unknown, outside, repeated, longest, listed = _values(
        connection,
        "count(*) FILTER (images.image_id IS NULL), "
        f"count(*) FILTER (present < size OR low < 0 OR high >= {limit}), "
        "count(*) FILTER (different < size), max(longest), "
        f"{'list(DISTINCT layer)' if has_layers else 'NULL'} "
        f"FROM ({blocks}) LEFT JOIN images USING (image_id)",
    )
    # The MP part of images without GT has no queries, and so no decoder layers.
    if has_layers and (listed or layers) and set(listed or ()) != set(range(layers + 1)):
        raise ValueError("the layers of queries are not those of summary.json")
    if unknown:
        raise ValueError(f"{table} has rows of an unknown image")
    if outside:
        raise ValueError(f"{table} has rows of an unknown {key}")
    if repeated:
        raise ValueError(f"a {key} is listed twice in {table}")
    _check_length(table, longest, layers)


def _longest(table: str) -> str:
    """Return the SQL of the length of the longest list of a table."""
    lengths = [f"len({column})" for column in _LISTS.get(table, ())]
    return f"max(greatest({', '.join(lengths)}))" if lengths else "NULL"


def _check_length(table: str, longest: int | None, layers: int) -> None:
    if (longest or 0) > layers + 1:
        raise ValueError(f"a list of {table} has more than {layers + 1} values")


def _numbers_of(layers: Iterable[Mapping[str, Any]]) -> list[Any]:
    return [entry.get("layer") for entry in layers]


def _is_query_use(use: Any) -> bool:
    """Return whether this is the result of `query_use`, or None as in old runs."""
    if use is None:
        return True
    if not isinstance(use, dict) or not {"matches", "dead"} <= use.keys():
        return False
    others = {key: value for key, value in use.items() if key != "matches"}
    lists = isinstance(use["matches"], list) and _are_numbers(use["matches"])
    return lists and _are_numbers(others.values())


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float | None) for value in values)


def _values(connection: duckdb.DuckDBPyConnection, selected: str) -> tuple[Any, ...]:
    """Return the one row of a query."""
    row = connection.execute(f"SELECT {selected}").fetchone()
    assert row is not None
    return row
