"""Models with their cards, for others: on a model hub, and described in a README.md."""
