"""The command `contextual-rnn info`: what is installed here, and which backends can run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("contextual-rnn", "torch", "numpy", "matplotlib", "safetensors", "tyro")


@dataclass(frozen=True)
class Info:
    """Show versions, devices and which backends are available."""

    def run(self) -> None:
        lines = information()
        width = max(map(len, lines))
        for name, value in lines.items():
            print(f"{name:{width}}  {value}")


def information() -> dict[str, str]:
    """Versions, devices and backends, by name."""
    import torch

    from contextual_rnn import ops
    from contextual_rnn.ops._gated import layers

    lines = {"python": platform.python_version(), "platform": platform.platform()}
    lines |= {name: _version(name) for name in PACKAGES}
    lines["cpu"] = (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    lines["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    backends = dict.fromkeys(ops.BACKENDS, "available") | {
        n: kernel.availability() for n, kernel in ops.KERNELS.items()
    }
    lines |= {f"fast weights: {name}": text for name, text in backends.items()}
    return lines | {"sequences of nn.RNN, nn.LSTM, nn.GRU: native": layers.availability()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
