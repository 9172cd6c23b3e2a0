"""Code in an interpreter that has imported PyTorch and nothing else: a fork of one that waits.

To import PyTorch takes seconds.
"""

import contextlib
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch"])
SECONDS = 280  # a process that has not ended by itself by then hangs; a test has 300


def run(code, *words, check=True, **environment):
    """As `python -c code words` would end, with what it printed; an error where it fails and `check` is true."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = start(code, *words, output=output, errors=errors, **environment)
        process.join(SECONDS)
        process.kill()
        process.join()
        done = CompletedProcess(code, process.exitcode, output.read_text(), errors.read_text())
    assert not (check and done.returncode), done.stderr
    return done


def start(code, *words, output, errors, folder=None, **environment):
    """A process that runs `code` in `folder`, prints into two files, which may be one, and ends with the tests."""
    process = PROCESSES.Process(target=_execute, args=(code, words, output, errors, folder, environment), daemon=True)
    process.start()
    return process


def _execute(code, words, output, errors, folder, environment):
    for descriptor, path in ((1, output), (2, errors)):
        with open(path, "ab") as file:
            os.dup2(file.fileno(), descriptor)
    multiprocessing.current_process()._config["daemon"] = False  # it may have processes of its own
    os.environ |= environment
    os.chdir(folder or os.getcwd())
    sys.argv = ["-c", *words]
    with contextlib.suppress(KeyboardInterrupt):
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
