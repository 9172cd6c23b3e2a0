"""When the fast weights are written; here, and not in `ops`, because the command's options need it without PyTorch."""

from typing import Literal, get_args

Timing = Literal["ba2016", "wenke2019"]
TIMINGS: tuple[Timing, ...] = get_args(Timing)
