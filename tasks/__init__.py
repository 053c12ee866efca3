"""One paper = one file = one LightningModule."""
