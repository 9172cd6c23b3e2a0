"""What state does a network carry? One description, read by every initial state."""

from contextual_rnn.spec.leaf import Leaf as Leaf
from contextual_rnn.spec.networks import state_spec as state_spec
from contextual_rnn.spec.spec import StateSpec as StateSpec
from contextual_rnn.spec.steps import take_step as take_step
