"""A real Dask scheduler and its workers, as processes: workers and the client are killed, one comes late."""

import json
import re
import sys
import time

import pytest
from tests import fresh
from tests.experiments.test_sweep import Serial, files_of
from tests.killed import SECONDS

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.sweeps import workers
from contextual_rnn.experiments.sweeps.grid import combinations
from contextual_rnn.experiments.sweeps.sweep import folder_name, sweep
from contextual_rnn.experiments.sweeps.workers import dask_workers

OPTIONS = {"samples_per_period": 320, "units": 16, "epochs": 12}
CONFIGS = combinations(DecayConfig(**OPTIONS, state="normal"), {}, seeds=6)
WORDS = ["sweep", "decay", "--samples-per-period", "320", "--units", "16", "--epochs", "12", "--seeds", "6"]

CLIENT = f"""
import sys
from contextual_rnn.experiments.__main__ import main
from contextual_rnn.experiments.sweeps import workers
workers.CONNECT_SECONDS = {SECONDS}
sys.exit(main())
"""
ENVIRONMENT_WITHOUT_THE_PACKAGE = "sys.modules['contextual_rnn'] = None"


def until(condition, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The scheduler's address, and functions that start a worker and our command."""
    monkeypatch.setattr(workers, "CONNECT_SECONDS", SECONDS)
    processes = []

    def start(name, code, *words):
        log = tmp_path / f"{name}.log"
        processes.append(fresh.start(code, *words, output=log, errors=log, folder=tmp_path))
        return processes[-1]

    def start_dask(name, *words, before="pass"):
        return start(name, f"import sys; {before}; from dask.__main__ import main; main()", *words, "--no-dashboard")

    def start_worker(name, before="pass"):
        # No nanny: a worker that is killed stays dead.
        words = ["worker", address, "--nthreads", "1", "--no-nanny", "--name", name]
        return start_dask(name, *words, before=before)

    def start_client(words):
        return start(
            "client", "import sys; from contextual_rnn.experiments.__main__ import main; sys.exit(main())", *words
        )

    contact = tmp_path / "scheduler.json"
    start_dask("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(contact))
    until(contact.exists)
    address = until(lambda: json.loads(contact.read_text() or "{}"))["address"]
    yield address, start_worker, start_client
    for process in processes:
        process.kill()
        process.join()


def test_every_result_is_there_once_whoever_is_killed(cluster, tmp_path, capsys):
    address, start_worker, start_client = cluster
    folder = tmp_path / "sweep"
    words = [*WORDS, "--out", str(folder), "--scheduler", address, "--checkpoint-seconds", "0.05"]

    broken = start_worker("broken", ENVIRONMENT_WITHOUT_THE_PACKAGE)
    log = tmp_path / "broken.log"
    until(lambda: log.exists() and "Registered to" in log.read_text())
    assert main(words) == 1
    told = capsys.readouterr().err
    assert re.search(r"workers: expected .* as here, got tcp://127.0.0.1:\d+: .*contextual_rnn", told)
    assert not folder.exists()
    broken.kill()
    broken.join()

    first, _ = start_worker("first"), start_worker("second")

    def count(file):
        return sum(1 for _ in folder.glob(f"*/{file}"))

    client = start_client(words)
    until(lambda: count("result.json") >= 1 and count("checkpoint.safetensors") >= 2)
    first.kill()
    start_worker("late")
    until(lambda: count("result.json") >= 2)
    client.kill()
    client.join()
    assert count("result.json") < len(CONFIGS), "killed in the middle"

    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["failed"] == {}
    assert told["skipped"] >= 2
    assert {path.name for path in folder.iterdir()} == {"sweep.json", *map(folder_name, CONFIGS)}
    sweep(CONFIGS, tmp_path / "serial", Serial())
    assert files_of(folder, CONFIGS) == files_of(tmp_path / "serial", CONFIGS)


def test_a_broken_environment_is_refused_and_names_the_worker():
    own = workers.versions()
    workers._check_environments({"tcp://10.0.0.1:1": own})
    for answer in (own | {"torch": "1.0"}, ModuleNotFoundError("No module named 'contextual_rnn'")):
        with pytest.raises(
            RuntimeError, match=r"workers: expected .* as here, got tcp://10.0.0.2:1: .*(1\.0|No module)"
        ):
            workers._check_environments({"tcp://10.0.0.1:1": own, "tcp://10.0.0.2:1": answer})


def test_a_scheduler_that_is_not_there_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 1)
    assert main([*WORDS, "--out", str(tmp_path), "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert "tcp://127.0.0.1:9" in capsys.readouterr().err


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match="pip install"), dask_workers("tcp://127.0.0.1:9"):
        pass
