"""Compare: two runs over the same images: by how much they differ, and one image side by side."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

from apps import address, elements, pairs, palette, pictures, texts
from apps.pairs import OneImage
from apps.runs import Loaded
from mpdiag.errors import RunError
from mpdiag.store import Comparison
from reports.comparison import in_words

METRICS = {"miou_l": "mIoU-L", "util": "Util"}
LISTED = 10


def show(loaded: Sequence[Loaded]) -> None:
    """Show the page."""
    elements.heading("Compare", "Two runs over the same images: b minus a, and where they part.")
    if len(loaded) < 2:
        elements.empty(
            "Comparing takes two runs over the same images. Start the dashboard with both: "
            "`mpdiag dashboard RUN_A RUN_B`."
        )
        return
    a, b = _choose(loaded)
    if a is b:
        elements.empty("These are the same run. Choose another one for b.")
        return
    with st.spinner("Comparing image by image ..."):
        found = pairs.comparison(a, b)
    if found.layers.empty:
        elements.empty("These runs have no image to compare.")
        return
    _show_differences(a, b, found)
    metric = _show_moved(a, b, found)
    _show_image(a, b, found, metric)


def _choose(loaded: Sequence[Loaded]) -> tuple[Loaded, Loaded]:
    by_token = {one.token: one for one in loaded}
    chosen = [
        address.select(
            f"Run {key}",
            key,
            list(by_token),
            box=box,
            default=loaded[number].token,
            show=lambda token: by_token[token].name,
        )
        for number, (key, box) in enumerate(zip("ab", st.columns(2, gap="large"), strict=True))
    ]
    return by_token[chosen[0]], by_token[chosen[1]]


def _show_differences(a: Loaded, b: Loaded, found: Comparison) -> None:
    titles = [f"{name}, b - a" for name in METRICS.values()]
    chart = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.08)
    for column, metric in enumerate(METRICS, start=1):
        rows = found.layers[found.layers["metric"] == metric]
        points = 100 * rows["difference"]
        chart.add_scatter(
            row=1,
            col=column,
            x=rows["layer"].tolist(),
            y=points.tolist(),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": (100 * rows["high"] - points).tolist(),
                "arrayminus": (points - 100 * rows["low"]).tolist(),
                "thickness": 1.5,
            },
            mode="lines+markers",
            line={"color": palette.RUNS[0], "width": 2},
            marker={"symbol": palette.RUN_MARKERS[0], "size": 8},
            showlegend=False,
            hovertemplate="layer %{x}: %{y:+.2f} points<extra></extra>",
        )
    chart.add_hline(y=0, line={"color": palette.PAPER, "width": 1, "dash": "dot"})
    chart.update_xaxes(title_text="layer", dtick=1, zeroline=False, showgrid=False)
    chart.update_yaxes(title_text="points", zeroline=False)
    chart.update_layout(height=340, margin={"l": 10, "r": 10, "t": 40, "b": 10}, dragmode=False)
    name = f"{a.token} and {b.token}"
    elements.figure(chart, f"{name} differences")
    st.caption(
        f"Over {found.images:,} images, in points; the bars are 95% intervals over images drawn "
        "anew for both runs at once."
    )
    if found.settings:
        elements.table(
            pd.DataFrame(
                [(key, *map(in_words, values)) for key, values in found.settings.items()],
                columns=["Made otherwise", "a", "b"],
            ),
            f"{name} settings",
        )
    table = found.layers.assign(metric=found.layers["metric"].map(METRICS))
    values = table[["a", "b", "difference", "low", "high"]].mul(100)
    with st.expander("As a table"):
        elements.table(
            pd.concat([table[["metric", "layer"]], values], axis=1), f"{name} layers", precision=2
        )
    if not found.scores.empty:
        scores = found.scores.assign(**{key: 100 * found.scores[key] for key in _VALUES})
        elements.table(scores, f"{name} scores", precision=2)


_VALUES = ["a", "b", "difference"]


def _show_moved(a: Loaded, b: Loaded, found: Comparison) -> str:
    """What moved most, by the chosen metric, which is given back."""
    st.header("What moved most", anchor=False)
    metric = address.select(
        "By",
        "metric",
        list(METRICS),
        box=st.columns([1, 4])[0],
        show=METRICS.__getitem__,
        resets=("image", "gt"),
    )
    images, classes = st.columns([3, 2], gap="large")
    for box, table, kind, title in (
        (images, found.moved_images, "file_name", "Image"),
        (classes, found.moved_classes, "class", "Class"),
    ):
        rows = table[table["metric"] == metric] if len(table) else table
        with box:
            if rows.empty:
                st.caption(f"{title}: neither run has a value to compare.")
                continue
            shown = rows.head(LISTED)
            elements.table(
                pd.DataFrame(
                    {title: shown[kind].map(str)}
                    | {name: 100 * shown[name] for name in ("a", "b", "difference")}
                ),
                f"{a.token} and {b.token} {kind} {metric}",
            )
    st.caption("Percent, over all layers of an image or class at once.")
    return metric


def _show_image(a: Loaded, b: Loaded, found: Comparison, metric: str) -> None:
    st.header("One image in both", anchor=False)
    moved = found.moved_images[found.moved_images["metric"] == metric]
    names = {
        int(row["image_id"]): f"{row['file_name']}: {100 * row['difference']:+z.1f}"
        for row in moved.to_dict("records")
    }
    first = next(iter(names), None)
    asked = address.number("image")
    if asked is not None and asked not in names:
        try:
            names = {asked: pairs.one_image(a, asked).file_name, **names}
        except RunError as error:
            elements.error(error)
    if not names:
        elements.empty("Neither run has a value for any image. Choose the other metric.")
        return
    left, right = st.columns([3, 2], gap="large")
    image_id = address.select(
        "Image, moved most first",
        "image",
        list(names),
        box=left,
        default=first,
        show=names.__getitem__,
        resets=("gt",),
    )
    both = [(one, pairs.one_image(one, image_id)) for one in (a, b)]
    targets = both[0][1].targets
    if targets.empty:
        elements.empty("This image has no ground truth, so no query matches. Choose another.")
        return
    labels = dict(zip(targets["gt"], targets["label"], strict=True))
    gt = address.select(
        "GT",
        "gt",
        [int(number) for number in targets["gt"]],
        box=right,
        show=lambda number: f"{number}: {texts.class_name(a.run, int(labels[number]))}",
    )
    for letter, box, (one, image) in zip("ab", st.columns(2, gap="large"), both, strict=True):
        with box:
            st.markdown(f"**{letter}: {texts.markdown(one.name)}**")
            _show_matches(one, image, gt)
            address.link(
                "inspector",
                "Look closer",
                icon=":material/layers:",
                run=one.token,
                image=image_id,
            )
    for letter, (one, image) in zip("ab", both, strict=True):
        _show_strip(letter, one, image, image_id, gt)


def _show_matches(one: Loaded, image: OneImage, gt: int) -> None:
    """Heat map: each GT's IoU with the query that it matches in each layer; `gt` is framed."""
    gts = [int(number) for number in image.targets["gt"]]
    depth = one.run.num_layers + 1
    place = {number: row for row, number in enumerate(gts)}
    iou = np.full((len(gts), depth), np.nan)
    query = np.full((len(gts), depth), "", dtype=object)
    for number, layer, index, value in image.matches.itertuples(index=False):
        iou[place[number], layer] = 100 * value
        query[place[number], layer] = str(index)
    names = [texts.class_name(one.run, int(label))[:16] for label in image.targets["label"]]
    chart = go.Figure(
        go.Heatmap(
            z=[[None if np.isnan(value) else value for value in row] for row in iou.tolist()],
            x=[texts.layer(layer) for layer in range(depth)],
            y=[f"{number} {texts.html(name)}" for number, name in zip(gts, names, strict=True)],
            text=query.tolist(),
            texttemplate="%{text}",
            colorscale=palette.HEAT,
            zmin=0,
            zmax=100,
            hovertemplate="GT %{y}, %{x}: query %{text}, IoU %{z:.1f} %<extra></extra>",
            colorbar={"thickness": 10, "ticksuffix": " %"},
        )
    )
    row = place[gt]
    line = {"color": palette.css(palette.MASK), "width": 2}
    chart.add_shape(type="rect", x0=-0.5, x1=depth - 0.5, y0=row - 0.5, y1=row + 0.5, line=line)
    chart.update_xaxes(showgrid=False)
    chart.update_yaxes(autorange="reversed", showgrid=False)
    chart.update_layout(
        height=110 + 28 * len(gts), margin={"l": 5, "r": 5, "t": 30, "b": 5}, dragmode=False
    )
    elements.figure(chart, f"{one.token} {image.file_name} matches")
    st.caption("The query that each GT matches in each layer, coloured by its IoU with the GT.")


def _show_strip(letter: str, one: Loaded, image: OneImage, image_id: int, gt: int) -> None:
    """The masks of the query that matches the GT in the last layer."""
    last = image.matches[
        (image.matches["gt"] == gt) & (image.matches["layer"] == one.run.num_layers)
    ]
    if last.empty:
        st.caption(f"{letter}: GT {gt} matches no query in the last layer.")
        return
    query = int(last["query"].iloc[0])
    if query not in image.kept:
        st.caption(
            f"{letter}: query {query}, whose masks this run has not kept; "
            "`mpdiag analyze --save-masks all` keeps all."
        )
        return
    st.caption(f"{letter}: query {query}, which matches GT {gt} in the last layer")
    picture = pictures.of_run(one.run, image_id, image.shape)
    masks = one.run.masks(image_id, query)
    for layer, box in enumerate(st.columns(len(masks), gap="xsmall")):
        with box:
            st.image(
                pictures.red_over(picture, masks[layer]),
                caption=texts.layer(layer),
                width="stretch",
            )
