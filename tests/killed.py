"""Training in processes that are killed with -9, by others or by themselves."""

import multiprocessing
import os
import signal
from pathlib import Path

from contextual_rnn import _whole_file
from contextual_rnn.experiments.runs.train import train

# Forks of the tests' own process, which has done everything once that PyTorch does at first use, in seconds.
PROCESSES = multiprocessing.get_context("fork")
SECONDS = 280  # a process that has not ended by itself by then hangs; a test has 300


def started(target, *arguments, **options):
    """A process that does `target`, and ends with the tests at the latest."""
    process = PROCESSES.Process(target=target, args=arguments, kwargs=options, daemon=True)
    process.start()
    return process


def ended(process):
    """The exit code of a process that ends by itself; one that does not is killed, and that is an error."""
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"{process.name}: expected to end within {SECONDS} s")
    return process.exitcode


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(config, folder: Path, checkpoint_seconds: float, place: str, file: str, count: int):
    """Train until `file` is written for the `count`-th time and die with half of it, before or after the rename."""
    left = count
    whole, rename = open, os.replace

    def half(path, *arguments, **options):
        opened = whole(path, *arguments, **options)
        if not ours(path):
            return opened

        class Half:
            def __enter__(self):
                return self

            def __exit__(self, *_): ...

            def write(self, data):
                opened.write(data[: len(data) // 2])
                die()

        return Half()

    def ours(path) -> bool:
        nonlocal left
        left -= Path(path).name.startswith(file)
        return left == 0 and Path(path).name.startswith(file)

    def replace(source, target):
        now = ours(target)
        if now and place == "before":
            die()
        rename(source, target)
        if now:
            die()

    if place == "half":
        _whole_file.open = half
    else:
        os.replace = replace
    train(config, folder, checkpoint_seconds=checkpoint_seconds)


def train_as_nobody(config, folder: Path, told):
    """Send what training says where it may not write; root may write anywhere."""
    if os.getuid() == 0:
        os.setuid(65534)
    try:
        train(config, folder)
    except OSError as error:
        told.send(str(error))
