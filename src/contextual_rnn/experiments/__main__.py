"""`python -m contextual_rnn.experiments` is the command `contextual-rnn`, for starters that want a module."""

import sys

from contextual_rnn.experiments.command_line import main

if __name__ == "__main__":
    sys.exit(main())
