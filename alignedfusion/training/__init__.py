"""Training, calibration and runs; token caches written before training."""
