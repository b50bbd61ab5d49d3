"""The dashboard in the states that the browser tests look at.

    streamlit run staged_dashboard.py FOLDER

The key `state` of the URL names the subfolder of FOLDER that holds the runs. While FOLDER/hold
exists, queries and the model of the page Live wait: pages that need them are loading.
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import streamlit as st

from apps import dashboard
from apps.views import live
from mpdiag.errors import CheckpointError
from mpdiag.store import Run

FOLDER = Path(sys.argv[1])
HOLD = FOLDER / "hold"


def wait() -> None:
    """Wait while FOLDER/hold exists."""
    while HOLD.exists():
        time.sleep(0.05)


def predict(path: str, *_: Any) -> tuple[list[str], str, Any]:
    """Return predictions like `live._run`, without PyTorch, which takes seconds to import."""
    wait()
    if path == "missing.pth":
        raise CheckpointError(f"{path}: does not exist; enter a checkpoint file or directory")
    generator = np.random.default_rng(0)
    masks = np.zeros((10, 4, 24, 32), dtype=bool)
    masks[:, :, 5:15, 5:25] = True
    predictions = SimpleNamespace(
        queries=np.arange(4),
        masks=masks,
        labels=generator.integers(0, 2, (10, 4)),
        scores=generator.uniform(size=(10, 4)),
        iou=generator.uniform(size=(9, 4)),
        miou_l=generator.uniform(size=9),
    )
    return ["person", "bicycle"], "the CPU", predictions


@st.cache_resource(show_spinner=False)
def patch() -> None:
    """Make what reads rows wait, and replace the model."""

    def waiting(method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            wait()
            return method(*args, **options)

        return call

    for name in ("layers", "query", "transitions"):
        setattr(Run, name, waiting(getattr(Run, name)))
    live._run = predict


patch()
if HOLD.exists():
    st.cache_data.clear()  # else pages that were opened before need no queries
state = st.query_params.get("state", "normal")
dashboard.main([str(path) for path in sorted((FOLDER / state).glob("*"))])
