"""`python -m alignedfusion`: the command, as launchers such as `torchrun` start it."""

import sys

from alignedfusion.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
