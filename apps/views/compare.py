"""Compare: differences of two runs over the same images, and one image side by side."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from apps import components, curves, filmstrip, url_state
from apps.formatting import escape_html, escape_markdown, shorten
from apps.image_charts import describe_limit, first_gt
from apps.image_queries import RunImage, read_image
from apps.image_select import select_image
from apps.runs import LoadedRun, cached
from mpdiag.store import LAYER_METRICS, Comparison, compare
from reports import palette
from reports.comparison import format_setting
from reports.layer_tables import PAPER_METRICS
from reports.mask_images import image_or_placeholder
from reports.names import class_name, layer_symbol
from reports.run_facts import SCORE_LABELS

MAX_ROWS = 10
MAX_IMAGES = 50
"""Number of images with the largest differences to select from."""
_VALUES = ["a", "b", "difference"]


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page."""
    components.page_header("Compare", "Two runs over the same images. Differences are b - a.")
    if len(runs) < 2:
        components.show_empty(
            "A comparison needs two runs over the same images. Start the dashboard with both: "
            "`mpdiag dashboard RUN_A RUN_B`."
        )
        return
    a, b = _select_runs(runs)
    if a is b:
        components.show_empty("Both runs are the same. Select another run b.")
        return
    comparison = _compare(a, b)
    if comparison.layers.empty:
        components.show_empty("These runs have no images to compare.")
        return
    _show_differences(a, b, comparison)
    metric = _show_largest_changes(a, b, comparison)
    _show_image(a, b, comparison, metric)


@cached
def _compare(a: LoadedRun, b: LoadedRun) -> Comparison:
    return compare(a.run, b.run, top=MAX_IMAGES)


def _select_runs(runs: Sequence[LoadedRun]) -> tuple[LoadedRun, LoadedRun]:
    by_slug = {loaded.slug: loaded for loaded in runs}
    a, b = (
        url_state.selectbox(
            f"Run {key}",
            key,
            list(by_slug),
            container=column,
            default=runs[index].slug,
            format_func=lambda slug: by_slug[slug].name,
        )
        for index, (key, column) in enumerate(zip("ab", st.columns(2, gap="large"), strict=True))
    )
    return by_slug[a], by_slug[b]


def _show_differences(a: LoadedRun, b: LoadedRun, comparison: Comparison) -> None:
    name = f"{a.slug} and {b.slug}"
    metrics = curves.select_metrics(
        st.columns([3, 2])[0], comparison.layers["metric"].unique().tolist()
    )
    components.figure(_difference_chart(comparison.layers, metrics), f"{name} differences")
    st.caption(
        f"{comparison.images:,} images. Error bars: 95% intervals, bootstrap over images with the "
        "same resamples for both runs."
    )
    if comparison.settings:
        components.table(
            pd.DataFrame(
                [(key, *map(format_setting, pair)) for key, pair in comparison.settings.items()],
                columns=["Different setting", "a", "b"],
            ),
            f"{name} settings",
            "different settings",
        )
    with st.expander("All metrics by layer"):
        components.table(_layer_table(comparison.layers), f"{name} layers", "metrics", precision=2)
    if not comparison.scores.empty:
        labels = comparison.scores["score"].map(lambda score: SCORE_LABELS.get(score, score))
        scores = pd.DataFrame({"Score of the last layer, %": labels})
        scores[["a", "b", "b - a"]] = 100 * comparison.scores[_VALUES]
        components.table(scores, f"{name} scores", "scores", precision=2)


def _difference_chart(layers: pd.DataFrame, metrics: Sequence[str]) -> go.Figure:
    """Draw the differences of each metric by layer with error bars."""
    chart, places = curves.metric_subplots(metrics, title="{}, b - a")
    for name in metrics:
        rows = layers[layers["metric"] == name]
        factor = curves.scale(LAYER_METRICS[name])
        difference = factor * rows["difference"]
        unit = "points" if factor == 100 else LAYER_METRICS[name].unit
        chart.add_scatter(
            **places[name],
            x=rows["layer"].tolist(),
            y=difference.tolist(),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": (factor * rows["high"] - difference).tolist(),
                "arrayminus": (difference - factor * rows["low"]).tolist(),
                "thickness": 1.5,
            },
            mode="lines+markers",
            line={"color": palette.RUN_COLORS[0], "width": 2},
            marker={"size": 8},
            showlegend=False,
            hovertemplate=f"layer %{{x}}: %{{y:+.2f}} {unit}<extra></extra>",
        )
        chart.update_yaxes(title_text=unit, zeroline=False, **places[name])
    chart.add_hline(y=0, line={"color": palette.PAPER_COLOR, "width": 1, "dash": "dot"})
    return chart


def _layer_table(layers: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison of all metrics by layer, fractions in percent."""
    metrics = layers["metric"].map(LAYER_METRICS)
    values = layers[[*_VALUES, "low", "high"]].mul(metrics.map(curves.scale), axis=0)
    return pd.concat([metrics.map(curves.label_with_unit), layers["layer"], values], axis=1)


def _show_largest_changes(a: LoadedRun, b: LoadedRun, comparison: Comparison) -> str:
    """Show the images and classes that differ most by the selected metric, and return it."""
    st.header("Largest changes", anchor=False)
    changed = comparison.moved_images
    metric = url_state.selectbox(
        "Metric",
        "metric",
        [name for name in LAYER_METRICS if name in set(changed["metric"])]
        if len(changed)
        else list(PAPER_METRICS),
        container=st.columns([1, 4])[0],
        format_func=lambda name: LAYER_METRICS[name].label,
        resets=("image", "gt"),
    )
    factor = curves.scale(LAYER_METRICS[metric])
    images, classes = st.columns([3, 2], gap="large")
    for column, table, key, title, content in (
        (images, changed, "file_name", "Image", "images"),
        (classes, comparison.moved_classes, "class", "Class", "classes"),
    ):
        rows = table[table["metric"] == metric] if len(table) else table
        with column:
            if rows.empty:
                st.caption(f"{title}: no values to compare.")
                continue
            rows = rows.head(MAX_ROWS)
            names = {title: rows[key].map(str)}
            components.table(
                pd.DataFrame(names | {name: factor * rows[name] for name in _VALUES}),
                f"{a.slug} and {b.slug} {key} {metric}",
                content,
                precision=_decimals(metric),
                column_config=components.name_column(names),
            )
    st.caption(f"{curves.label_with_unit(LAYER_METRICS[metric])}, over all layers.")
    return metric


def _show_image(a: LoadedRun, b: LoadedRun, comparison: Comparison, metric: str) -> None:
    st.header("One image in both runs", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    image_id = _select_image(a, comparison, metric, left)
    if image_id is None:
        components.show_empty("No image has a value to compare. Select another metric.")
        return
    of_a, own_of_b = (read_image(loaded.run, image_id) for loaded in (a, b))
    of_b = own_of_b.numbered_as(of_a)
    both = (a, of_a), (b, of_b)
    targets = of_a.targets
    if targets.empty:
        components.show_empty("This image has no GT, so no query matches. Select another image.")
        return
    labels = dict(zip(targets["gt"], targets["label"], strict=True))
    gt = url_state.selectbox(
        "GT",
        "gt",
        [int(index) for index in targets["gt"]],
        container=right,
        format_func=lambda index: f"{index}: {class_name(a.run, int(labels[index]))}",
    )
    if of_b.gt_keys != own_of_b.gt_keys:
        st.caption("The GT of b are in another order than those of a. Numbers are those of a.")
    columns = st.columns(2, gap="large")
    for letter, column, (loaded, image) in zip("ab", columns, both, strict=True):
        with column:
            st.markdown(f"**{letter}: {escape_markdown(loaded.name)}**")
            _show_matches(loaded, image, gt)
            query = _final_query(image, gt)
            url_state.page_link(
                "inspector",
                f"Open {letter} in Inspector",
                icon=":material/layers:",
                run=loaded.slug,
                image=image_id,
                query=None if query < 0 else query,
            )
    for letter, (loaded, image) in zip("ab", both, strict=True):
        _show_masks(letter, loaded, image, gt)


def _decimals(metric: str) -> int:
    return 1 if LAYER_METRICS[metric].unit == "fraction" else 2


def _select_image(
    a: LoadedRun, comparison: Comparison, metric: str, container: st.delta_generator.DeltaGenerator
) -> int | None:
    changed = comparison.moved_images[comparison.moved_images["metric"] == metric]
    factor, digits = curves.scale(LAYER_METRICS[metric]), _decimals(metric)
    names = {
        int(row["image_id"]): f"{row['file_name']}: {factor * row['difference']:+z.{digits}f}"
        for row in changed.to_dict("records")
    }
    if not names:
        return None
    return select_image("Image, largest change first", a, names, container, resets=("gt",))


def _show_matches(loaded: LoadedRun, image: RunImage, gt: int) -> None:
    """Show a heatmap of the IoU of each GT with its matched query by layer, with `gt` framed."""
    targets = first_gt(image.targets, gt)
    indices = [int(index) for index in targets["gt"]]
    depth = loaded.run.num_layers + 1
    iou, query = (
        image.matches.pivot(index="matched_gt", columns="layer", values=column).reindex(
            index=indices, columns=range(depth)
        )
        for column in ("matched_gt_iou", "query")
    )
    names = [shorten(class_name(loaded.run, int(label)), 16) for label in targets["label"]]
    chart = go.Figure(
        go.Heatmap(
            z=(100 * iou.to_numpy()).tolist(),
            x=[layer_symbol(layer) for layer in range(depth)],
            y=[f"{index} {escape_html(name)}" for index, name in zip(indices, names, strict=True)],
            text=query.map(lambda cell: "" if pd.isna(cell) else f"{cell:.0f}").to_numpy().tolist(),
            texttemplate="%{text}",
            colorscale=palette.COLORSCALE,
            zmin=0,
            zmax=100,
            hovertemplate="GT %{y}, %{x}: query %{text}, IoU %{z:.1f}%<extra></extra>",
            colorbar={"thickness": 10, "ticksuffix": "%"},
        )
    )
    row = indices.index(gt)
    line = {"color": palette.to_hex(palette.MASK_COLOR), "width": 2}
    chart.add_shape(type="rect", x0=-0.5, x1=depth - 0.5, y0=row - 0.5, y1=row + 0.5, line=line)
    chart.update_xaxes(showgrid=False)
    chart.update_yaxes(autorange="reversed", showgrid=False)
    chart.update_layout(height=110 + 28 * len(indices), dragmode=False)
    components.figure(chart, f"{loaded.slug} {image.file_name} matches")
    st.caption(
        "Matched query of each GT by layer. Color: IoU of the query's mask with the GT."
        f"{describe_limit(len(image.targets))}"
    )


def _final_query(image: RunImage, gt: int) -> int:
    """Return the query that matches a GT in the last layer, or -1."""
    targets = image.targets
    return int(targets.loc[targets["gt"] == gt, "matched_query"].iloc[0][-1])


def _show_masks(letter: str, loaded: LoadedRun, image: RunImage, gt: int) -> None:
    """Show the masks of the query that matches the GT in the last layer."""
    query = _final_query(image, gt)
    if query < 0:
        st.caption(f"{letter}: GT {gt} matches no query in the last layer.")
        return
    if query not in image.saved:
        st.caption(
            f"{letter}: the masks of query {query} are not saved. To save all masks, run "
            "`mpdiag analyze --save-masks all`."
        )
        return
    st.caption(f"{letter}: query {query}, which matches GT {gt} in the last layer.")
    rgb_image = image_or_placeholder(loaded.run, image.image_id, (image.height, image.width))
    masks = loaded.run.masks(image.image_id, query)
    symbols = [layer_symbol(layer) for layer in range(len(masks))]
    filmstrip.show_masks(rgb_image, masks, symbols, letter)
