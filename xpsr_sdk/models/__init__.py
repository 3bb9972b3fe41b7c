"""The networks: ControlNet with fusion and degradation heads, U-Net with pixel attention, checkpoint formats."""
