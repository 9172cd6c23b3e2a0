"""Files: an initial state as one small file, and the final state of a network, to continue from later.

Needs `pip install "contextual-rnn[files]"`, which is safetensors.
"""

from contextual_rnn.serialization.states import load_carried_state as load_carried_state
from contextual_rnn.serialization.states import load_state as load_state
from contextual_rnn.serialization.states import load_weights as load_weights
from contextual_rnn.serialization.states import save_carried_state as save_carried_state
from contextual_rnn.serialization.states import save_state as save_state
from contextual_rnn.serialization.states import save_weights as save_weights
