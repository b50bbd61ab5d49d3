"""A TrainerCallback that logs what each decoder layer predicts during training."""


class LayerDiagnosticsCallback:
    """Placeholder until the monitor is there."""
