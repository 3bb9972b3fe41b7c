"""Training: configs, losses, and one readable loop."""
