"""Cases from files: codes and images, ready for a `torch.utils.data.DataLoader`. Independent of any model."""
