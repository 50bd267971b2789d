"""The subcommands of `alignedfusion`, one file each."""
