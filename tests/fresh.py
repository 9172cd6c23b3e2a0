"""Code in an interpreter that has imported PyTorch and nothing else: a fork of one that waits.

To import PyTorch takes seconds, and so does its compiler, Dynamo: code that compiles is a fork of another that waits.
"""

import contextlib
import gc
import multiprocessing
import os
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch"])
# Python has one such server a process, and `start` asks this one where it is to: it has imported, and compiled nothing.
COMPILERS = forkserver.ForkServer()
COMPILERS.set_forkserver_preload(["torch", "torch._dynamo", "functorch.compile", "torch.nn.attention.flex_attention"])
SECONDS = 280  # a process that has not ended by itself by then hangs; a test has 300


def run(code, *words, check=True, compiles=False, **environment):
    """As `python -c code words` would end, with what it printed; an error where it fails and `check` is true."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = start(code, *words, output=output, errors=errors, compiles=compiles, **environment)
        process.join(SECONDS)
        process.kill()
        process.join()
        done = CompletedProcess(code, process.exitcode, output.read_text(), errors.read_text())
    assert not (check and done.returncode), done.stderr
    return done


def start(code, *words, output, errors, folder=None, compiles=False, **environment):
    """A process that runs `code` in `folder`, prints into two files, which may be one, and ends with the tests.

    Where it `compiles`, Dynamo has been imported too, and Triton with it.
    """
    process = PROCESSES.Process(target=_execute, args=(code, words, output, errors, folder, environment), daemon=True)
    server = COMPILERS if compiles else forkserver._forkserver
    with patch.object(forkserver, "connect_to_new_process", server.connect_to_new_process):
        process.start()
    return process


def _execute(code, words, output, errors, folder, environment):
    for descriptor, path in ((1, output), (2, errors)):
        with open(path, "ab") as file:
            os.dup2(file.fileno(), descriptor)
    multiprocessing.current_process()._config["daemon"] = False  # it may have processes of its own
    gc.freeze()  # what is imported stays
    os.environ |= environment
    os.chdir(folder or os.getcwd())
    sys.argv = ["-c", *words]
    with contextlib.suppress(KeyboardInterrupt):
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
