"""The select box of images on the pages Inspector and Compare."""

from collections.abc import Sequence

from streamlit.delta_generator import DeltaGenerator

from apps import components, url_state
from apps.image_queries import find_file_name
from apps.runs import LoadedRun


def select_image(
    label: str,
    loaded: LoadedRun,
    names: dict[int, str],
    container: DeltaGenerator,
    *,
    resets: Sequence[str],
    help: str | None = None,
) -> int:
    """Return the image of the URL if the run has it, else the first one, with a note.

    `names` are the images to select from: id -> label. The image of the URL may be another one. A
    change of the image removes the keys `resets`.
    """
    first = next(iter(names))
    requested = url_state.get_int("image")
    if requested is not None and requested not in names:
        file_name = find_file_name(loaded.run, requested)
        if file_name is not None:
            names = {requested: file_name, **names}
        else:
            components.show_empty(
                f"The run has no image with the id {requested}. The first image of the list is "
                "shown."
            )
    return url_state.selectbox(
        label,
        "image",
        list(names),
        default=first,
        container=container,
        format_func=names.__getitem__,
        resets=resets,
        help=help,
    )
