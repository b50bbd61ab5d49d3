"""Settings of the recipe synthetic-tiny that train a smaller model, without packaged weights."""

SMALL = (
    "model.hidden_dim=32",
    "model.mask_dim=32",
    "model.encoder_layers=1",
    "model.decoder_layers=3",
    "model.num_queries=12",
    "model.backbone={name: resnet18, channels: [8, 8, 16, 16], stem_channels: 8, norm: batch}",
    "init=null",
    "pilot.num_queries=12",
)
