"""`mpdiag.diagnose`: find the causes of lost AP of a checkpoint or a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from mpdiag.analysis.build_adapter import build_adapter
from mpdiag.analysis.measure import choose_device
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.opening import open_model
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.finding import THRESHOLD, Diagnosis
from mpdiag.diagnosis.search import Search
from mpdiag.errors import ConfigError


def diagnose(
    source: str | Path | LoadedCheckpoint | nn.Module,
    dataset: str | SegmentationDataset | None = None,
    *,
    threshold: float = THRESHOLD,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Diagnosis:
    """Find what costs a model AP, how much, and what to change."""
    chosen = AnalysisOptions(**options)
    model = open_model(source, chosen.config, chosen.engine)
    if dataset is None:
        raise ConfigError("--dataset: is missing; give one")
    if not isinstance(dataset, SegmentationDataset):
        dataset = load_dataset(dataset, root=chosen.root, split=chosen.split, task=chosen.task)
    adapter = build_adapter(model, dataset, chosen)
    device = choose_device(chosen.device)
    adapter.to(device)
    count = min(chosen.limit or len(dataset), len(dataset))
    collector = Collector(adapter, dataset, range(count), device, progress)
    evidence = collector.collect(every_layer=True)
    return Search(evidence, collector.facts, threshold, collector).run()
