"""Whether a random state's draws are as far apart as they are from the truth."""

from __future__ import annotations

import numpy

from contextual_rnn.experiments.compare.runs import Arm
from contextual_rnn.experiments.stats.intervals import Interval
from contextual_rnn.experiments.stats.verdict import mean_of_known
from contextual_rnn.experiments.tasks.panel import DRAWS

LEFT_OUT = (1, 2, 4)  # draws below a band, and as many above


def coverage_of(arm: Arm) -> dict[float, Interval]:
    """How many targets of the test set lie in a band of the draws, by how many should; {} without draws of quantities.

        nominal = (S + 1 - 2 k) / (S + 1),   the band from the k-th least to the k-th largest of S draws

    which holds for any distribution where target and draws are exchangeable. A share below it says that the draws are
    too alike. Means over series and seeds, with intervals of 95 %.
    """
    if "draws_below" not in arm.scores:
        return {}
    below = arm.scores["draws_below"]
    shares = {}
    for left_out in LEFT_OUT:
        inside = numpy.where(numpy.isnan(below), numpy.nan, (below >= left_out) & (below <= DRAWS - left_out))
        shares[(DRAWS + 1 - 2 * left_out) / (DRAWS + 1)] = mean_of_known(arm.errors.by_series(inside))
    return shares
