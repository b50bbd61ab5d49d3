"""transformers' own Mask2Former with our converted weights gives our outputs, layer for layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

from mpdiag.checkpoints import load_model, save_checkpoint  # noqa: E402
from mpdiag.checkpoints.convert import convert  # noqa: E402
from mpdiag.config import BackboneConfig, ModelConfig  # noqa: E402
from mpdiag.models import Mask2Former  # noqa: E402
