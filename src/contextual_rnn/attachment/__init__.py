"""An initial state for a recurrent network inside somebody else's model."""

from contextual_rnn.attachment.contexts import given_context as given_context
from contextual_rnn.attachment.network import attach as attach
from contextual_rnn.attachment.network import remove_initial_state as remove_initial_state
