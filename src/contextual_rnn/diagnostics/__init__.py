"""Did the initial state matter? Losses under other states, the influence of h(0), a test, a burn-in, sigma."""

from contextual_rnn.diagnostics.diagnosis import Diagnosis as Diagnosis
from contextual_rnn.diagnostics.influence import Influence as Influence
from contextual_rnn.diagnostics.run import diagnose as diagnose
from contextual_rnn.diagnostics.run import diagnose_state as diagnose_state
from contextual_rnn.diagnostics.sigma import Sigma as Sigma

__all__ = ["Diagnosis", "Influence", "Sigma", "diagnose", "diagnose_state"]
