"""The commands around models, one file each; those on reports are in `reports.command`."""
