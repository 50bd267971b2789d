"""Cases from files: codes and images, ready for a `torch.utils.data.DataLoader`. They know nothing of models."""
