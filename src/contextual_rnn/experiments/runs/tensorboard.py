"""Metrics for TensorBoard, where it is installed."""

from __future__ import annotations

from pathlib import Path


class TensorBoard:
    """Writes below `folder`; what an earlier process wrote from `step` on is hidden."""

    def __init__(self, folder: Path, step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, metrics: dict[str, float]) -> None:
        if self.writer is not None:
            for name in metrics.keys() - {"epoch", "step"}:
                self.writer.add_scalar(name, metrics[name], int(metrics["step"]))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
