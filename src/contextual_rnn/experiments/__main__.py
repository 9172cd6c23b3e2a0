"""The command `contextual-rnn`, which is `python -m contextual_rnn.experiments` for starters that want a module.

Nothing here imports PyTorch, which takes seconds: Ctrl-C is handled before. Processes of a sweep import this file too.
"""

import signal
import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    blockable = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blockable else set()
    from contextual_rnn.experiments import interrupts

    interrupts.install()
    if blockable:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # a Ctrl-C of meanwhile is received now
    from contextual_rnn.experiments.cli import main as command_line

    status = command_line.main()
    if interrupts.requested():
        interrupts.end()  # without the second that Python takes to leave PyTorch
    return status


if __name__ == "__main__":
    sys.exit(main())
