"""`python -m alignedfusion` runs the `alignedfusion` command, for launchers such as `torchrun`."""

import sys

from alignedfusion.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
