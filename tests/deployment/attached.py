"""Models with an attached state, for the tests of attachment: what they compute is what a ContextualRNN does."""

from contextlib import nullcontext

import torch
from tests.deployment.matrix import build
from tests.networks import tensors_of
from torch import nn

from contextual_rnn import NormalState, attach, given_context

CASES = ["context lstm", "normal gru", "free lstm deep both ways", "context lstm cell", "context fast weights"]
WAYS = ["given_context", "an argument of the host"]


class Host(nn.Module):
    """Somebody else's model: it calls its network without a state, or with one that is there already."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, static=None, hx=None):
        return self.network(x) if hx is None else self.network(x, hx)


def attached(case, way, whole=Host):
    """A model whose state is attached, and the ContextualRNN of the same modules."""
    parts = build(case)
    model = whole(parts.network)
    options = {} if way == "given_context" else {"host": model, "context": "static"}
    attach(parts.network, parts.initial_state, **options)
    return model


def run(model, way, x, context, seed=0):
    """What the network returns, with the same draws for the same seed."""
    torch.manual_seed(seed)
    with given_context(context) if way == "given_context" else nullcontext():
        return model(x, context)


def loss_of(model, state, way, x, context, seed=0):
    """Of the outputs and the final state, and of the KL of a state that has one."""
    loss = sum(tensor.float().square().mean() for tensor in tensors_of(run(model, way, x, context, seed)))
    return loss + state.kl(context).mean() if isinstance(state, NormalState) else loss


def halves_of(model, x, context):
    """The part of each of two processes."""
    first = getattr(model.network, "batch_first", True)
    return [(x[half] if first else x[:, half], context[half]) for half in (slice(0, 2), slice(2, 4))]
