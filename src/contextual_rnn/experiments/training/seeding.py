"""Seeds of a run."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Generator

import torch

# PyTorch's global generators are one for all threads of a process. A task may build another one inside.
_GLOBAL_GENERATORS = threading.RLock()


def seed_for(*key: str | int) -> int:
    """A seed that is a function of `key` alone; other keys give independent streams."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def generator_for(*key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of `seed_for` the key; of one seed a GPU draws other numbers than a CPU."""
    return torch.Generator(device).manual_seed(seed_for(*key))


@contextlib.contextmanager
def global_generators(*key: str | int, cuda: bool = False) -> Generator[None]:
    """Torch's global generators draw what `seed_for` the key gives, in one thread at a time; then they are as before.

    That of the current GPU only with `cuda`.
    """
    devices = [torch.cuda.current_device()] if cuda else []
    with _GLOBAL_GENERATORS, torch.random.fork_rng(devices=devices):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[device] for device in devices)):
            generator.manual_seed(seed_for(*key))
        yield
