from contextual_rnn.serialization import load_state as load_state
from contextual_rnn.serialization import save_state as save_state
