"""The command `contextual-rnn`, which is `python -m contextual_rnn.experiments` for starters that want a module.

Nothing here imports PyTorch, which takes seconds: Ctrl-C is handled before. Processes of a sweep import this file too.
"""

import sys

from contextual_rnn.experiments import interrupts


def main() -> int:
    """Run the command line; returns the exit status."""
    interrupts.install()
    from contextual_rnn.experiments.cli import main as command_line

    status = command_line.main()
    if interrupts.requested():
        interrupts.end()  # without the second that Python takes to leave PyTorch
    return status


if __name__ == "__main__":
    sys.exit(main())
