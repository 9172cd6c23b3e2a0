"""Roll a model out from its initial states: sample, continue, search; paths between two conditions."""

from contextual_rnn.generation.interpolation import interpolate as interpolate
from contextual_rnn.generation.rollout import Generated as Generated
from contextual_rnn.generation.sampling import TokenSampler as TokenSampler
from contextual_rnn.generation.step import GenerationStep as GenerationStep
from contextual_rnn.generation.trajectories import generate as generate
