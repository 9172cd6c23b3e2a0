"""The tasks, by name: what differs from task to task is data in its entry here.

A task of your own is a Python file that calls `register`, named on the command line in place of a task; or the
environment variable CONTEXTUAL_RNN_TASKS names such files, separated as in PATH. The command and its worker processes
then know the task as they know the paper's two.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contextual_rnn.experiments.config.entry import TaskEntry, check_parts
from contextual_rnn.experiments.config.options import TrainingConfig

TASK_FILES = "CONTEXTUAL_RNN_TASKS"
MODULES = "contextual_rnn_tasks_"  # the beginning of the names that their modules get
# Options that a run may have had in an earlier version, and the only value that they can still have.
RETIRED = {"schedule": "constant"}

Config = TrainingConfig
_TASKS: dict[str, TaskEntry] = {}
_LOADED: set[str] = set()
_ORIGINS: dict[str, str] = {}  # of tasks from files, by name
_NAMED: dict[str, str] = {}  # files as the command line named them, by their tasks


def register(entry: TaskEntry) -> TaskEntry:
    """Add a task. Raises ValueError or TypeError, which names the part, for one that could not be run and shown."""
    if not isinstance(entry, TaskEntry):
        raise TypeError(f"entry: expected a TaskEntry, got {type(entry).__name__}")
    if not isinstance(entry.name, str) or not entry.name.isidentifier():
        raise ValueError(f"name: expected a task's name of letters, digits and _, got {entry.name!r}")
    if entry.name in _TASKS:
        raise ValueError(f"name: expected one that no other task has, got {entry.name!r}")
    if not entry.metrics:
        raise ValueError(f"metrics: expected at least one for {entry.name}, got none")
    check_parts(entry)
    for other in _TASKS.values():
        if entry.config is other.config:
            raise ValueError(f"config: expected a class of its own, got {entry.config.__name__} of {other.name}")
    _TASKS[entry.name] = entry
    return entry


def tasks() -> Mapping[str, TaskEntry]:
    """The tasks by name. Raises ValueError, which names the file, where one in CONTEXTUAL_RNN_TASKS cannot be run."""
    for path in filter(None, os.environ.get(TASK_FILES, "").split(os.pathsep)):
        _run_file(Path(path), TASK_FILES)
    return _TASKS


def named_file(task: str) -> str | None:
    """A file that names a task on a command line: as the user named it, else where it was found; None without one.

    Worker processes are given `CONTEXTUAL_RNN_TASKS` alone, and do not know what the user named. A file with several
    tasks names none of them.
    """
    origin = _ORIGINS.get(task)
    alone = list(_ORIGINS.values()).count(origin or "") == 1
    return _NAMED.get(task) or (origin if alone else None)


def task_of_file(path: str) -> str:
    """The name of the task that a Python file registers; this process and those that it starts then know it.

    Raises ValueError where the file cannot be run or registers another number of tasks than one.
    """
    file = str(Path(path).resolve())
    if not Path(path).is_file():
        raise ValueError(f"task: expected a Python file that registers a task, got {path}, which is no file")
    _run_file(Path(file), "task")
    files = [name for name in os.environ.get(TASK_FILES, "").split(os.pathsep) if name]
    if file not in (str(Path(name).resolve()) for name in files):
        os.environ[TASK_FILES] = os.pathsep.join([*files, file])
    known = tasks()
    names = [name for name, origin in _ORIGINS.items() if name in known and origin == file]
    if len(names) != 1:
        raise ValueError(f"task: expected a file that registers one task, got {', '.join(names) or 'none'} in {path}")
    _NAMED[names[0]] = path
    return names[0]


def _run_file(path: Path, argument: str) -> None:
    """Run a file with tasks, which `argument` named, unless it has run, under this or another path."""
    file = str(path.resolve())
    if not _LOADED.isdisjoint((file, str(path))):  # a relative path stays known where the process changes its folder
        return
    _LOADED.update(loaded := {file, str(path)})
    # Files of the same name in other folders are other modules.
    name = f"{MODULES}{path.stem}_{hashlib.blake2b(file.encode(errors='surrogateescape'), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        _LOADED.difference_update(loaded)
        raise ValueError(f"{argument}: expected Python files, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass reads the types of its fields there
    if (folder := str(Path(file).parent)) not in sys.path:
        sys.path.insert(0, folder)  # as `python FILE.py` does; it stays, as the task may import later
    before = set(_TASKS)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script ends the process where it has read its arguments
        _LOADED.difference_update(loaded)
        for registered in _TASKS.keys() - before:
            del _TASKS[registered]
        reason = str(error) or type(error).__name__
        if isinstance(error, ImportError) and "relative import" in reason:
            reason += "; a task is one file, which may import modules beside it: import NAME, not from . import NAME"
        raise ValueError(
            f"{argument}: expected Python that registers tasks in {path}, got an error: {reason}"
        ) from error
    _ORIGINS.update(dict.fromkeys(_TASKS.keys() - before, file))


def entry_of(config: Config) -> TaskEntry:
    """The entry of the task that a configuration is of. Raises ValueError where it is not registered."""
    for entry in tasks().values():
        if type(config) is entry.config:
            return entry
    raise ValueError(f"config: expected the configuration of a registered task, got {type(config).__name__}")


def task_name(config: Config) -> str:
    return entry_of(config).name


def config_to_dict(config: Config) -> dict[str, Any]:
    return {"task": task_name(config), **dataclasses.asdict(config)}


def chosen(config: Config, *aside: str) -> dict[str, Any]:
    """The options that are not at their defaults, without those of the names `aside`."""
    return {
        option.name: value
        for option in dataclasses.fields(config)
        if option.name not in aside and (value := getattr(config, option.name)) != option.default
    }


def identity(config: Config) -> str:
    """Twelve hexadecimal digits that distinguish this configuration from every other: a hash of its options.

    Options at their default are left out, so that a later version may add one and still know its old runs.
    """
    floats = {option.name for option in dataclasses.fields(config) if isinstance(option.default, float)}
    options = {name: float(value) if name in floats else value for name, value in chosen(config).items()}
    text = json.dumps({"task": task_name(config), **options}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def config_from_dict(options: Mapping[str, Any]) -> Config:
    """The configuration written as `options`.

    Raises ValueError for an unknown task or option, listing those there are, and for values that the configuration
    refuses; TypeError for values of another type.
    """
    options = dict(options)
    task, known_tasks = options.pop("task", None), tasks()
    if not isinstance(task, str) or task not in known_tasks:
        raise ValueError(
            f"task: expected one of {', '.join(known_tasks)}, or of a file that {TASK_FILES} names, got {task!r}; "
            "results and report take a FILE.py with a task before the folder"
        )
    kind = known_tasks[task].config
    known = {option.name for option in dataclasses.fields(kind)}
    for name in RETIRED.keys() - known:
        if (value := options.pop(name, RETIRED[name])) != RETIRED[name]:
            raise ValueError(f"{name}: expected {RETIRED[name]}, the only one that there still is, got {value!r}")
    if unknown := sorted(set(options) - known):
        raise ValueError(f"options of {task}: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    return kind(**options)
