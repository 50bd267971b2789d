"""Fusions of several modalities' tokens, all called like `IntermediateTokenFusion`."""
