"""The paper as `nn.Module`s: tokenizers, fusions, reconstruction, and the classifier that connects them."""
