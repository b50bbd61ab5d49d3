"""Adapter of a model whose decoder is changed by interventions."""

from collections.abc import Sequence

import torch

from mpdiag.analysis.adapter import LayerPredictions, ModelAdapter, PreprocessedImage
from mpdiag.analysis.interventions import Intervention, intervene, silence_queries
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.analysis.settings import AnalysisSettings
from mpdiag.data import Sample
from mpdiag.errors import ConfigError
from mpdiag.matching import Target, finite_queries
from mpdiag.recording import find_family


class IntervenedAdapter(ModelAdapter):
    """Another adapter with interventions in each forward pass."""

    def __init__(self, adapter: ModelAdapter, options: AnalysisOptions) -> None:
        """Parse the interventions.

        Raises:
            ConfigError: an intervention is invalid, or the family does not support any.
        """
        super().__init__(adapter.module, adapter.classes, adapter.info)
        family, module = find_family(adapter.module)
        points = family.intervention_points(module)
        if points is None:
            raise ConfigError(
                f"--intervene: {family.name} has no masked attention that can be replaced; leave "
                "it out"
            )
        self.adapter = adapter
        self.points = points
        self.interventions = [
            Intervention.parse(text, points.num_layers, points.num_queries)
            for text in options.intervene
        ]
        self.match = AnalysisSettings.derive(self.info.settings, options).matcher()

    def preprocess(self, sample: Sample) -> PreprocessedImage:
        return self.adapter.preprocess(sample)

    def predict(
        self, batch: Sequence[PreprocessedImage], targets: Sequence[Target], *, attention: bool
    ) -> LayerPredictions:
        last = torch.full((len(batch), self.points.num_queries), -1)
        if any(one.source == "gt" for one in self.interventions):
            baseline = self.adapter.predict(batch, targets, attention=False)
            logits = baseline.class_logits[-1:], baseline.mask_logits[-1:]
            last = self.match(*logits, targets, finite_queries(*logits)).assignment[0]
        padded = batch[0].padded
        with intervene(self.module, self.points, self.interventions, padded, targets, last):
            predictions = self.adapter.predict(batch, targets, attention=attention)
        return silence_queries(predictions, self.interventions)
