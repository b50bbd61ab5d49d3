"""Small models of transformers with random weights, which several tests use."""

from typing import Any


def swin() -> Any:
    """Return the configuration of a Swin with four stages."""
    import transformers

    config: Any = transformers.SwinConfig
    return config(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def mask2former(**changes: Any) -> Any:
    """Return a Mask2Former with three decoder layers; `changes` are settings of its config."""
    import transformers

    settings: dict[str, Any] = {
        "feature_size": 32,
        "mask_feature_size": 16,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 4,  # transformers counts M^0
        "num_attention_heads": 4,
        "dim_feedforward": 32,
        "num_queries": 5,
        "num_labels": 3,
    }
    backbone = changes.pop("backbone_config", None) or swin()
    config = transformers.Mask2FormerConfig(backbone_config=backbone, **{**settings, **changes})
    return transformers.Mask2FormerForUniversalSegmentation(config)


def oneformer(**changes: Any) -> Any:
    """Return a OneFormer with three decoder layers; `changes` are settings of its config."""
    import transformers

    settings: dict[str, Any] = {
        "num_queries": 5,
        "conv_dim": 32,
        "mask_dim": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 4,  # transformers counts M^0
        "num_attention_heads": 4,
        "dim_feedforward": 32,
        "query_dec_layers": 1,
        "task_seq_len": 7,
        "num_labels": 3,
    }
    config = transformers.OneFormerConfig(backbone_config=swin(), **{**settings, **changes})
    return transformers.OneFormerForUniversalSegmentation(config)
