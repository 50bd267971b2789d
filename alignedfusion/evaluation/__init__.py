"""Predictions of a trained model, metrics and plots."""
