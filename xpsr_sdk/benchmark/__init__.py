"""What each part of the engine gains, as ratios within one run."""
