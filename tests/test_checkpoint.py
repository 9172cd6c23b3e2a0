"""torch.utils.checkpoint: the recomputation repeats what the forward pass drew, and leaves generators alone."""

import copy
import functools

import pytest
import torch
from tests.networks import tensors_of
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

from contextual_rnn import (
    ContextDropout,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    LeafwiseState,
    NormalState,
    SumState,
)
from contextual_rnn.ops._fast_weights.cpu import instruction_set
from contextual_rnn.spec.networks import state_spec

B, T = 5, 6
WAYS = {
    "reentrant": {"use_reentrant": True},
    "not reentrant": {"use_reentrant": False},
    "without the default generators": {"use_reentrant": False, "preserve_rng_state": False},
    "every step": {"use_reentrant": False, "early_stop": False},
    "selective": {
        "use_reentrant": False,
        "context_fn": functools.partial(
            create_selective_checkpoint_contexts, lambda ctx, op, *args, **options: CheckpointPolicy.PREFER_RECOMPUTE
        ),
    },
}


def net():
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh())


def leafwise(lstm):
    spec = state_spec(lstm)
    return LeafwiseState(spec, h=NormalState(spec["h"], net(), 1.0), c=FreeState(spec["c"], noise=1.0))


STATES = {
    "free": lambda lstm: FreeState(lstm, noise=1.0),
    "free, by its error": lambda lstm: FreeState(lstm, noise=1.0, error_decay=0.5),
    "normal": lambda lstm: NormalState(lstm, net(), 1.0),
    "leafwise": leafwise,
    "sum": lambda lstm: SumState([FreeState(lstm, noise=1.0), NormalState(lstm, net(), 1.0)], [0.5, 0.5]),
    "dropout": lambda lstm: ContextDropout(NormalState(lstm, net(), 1.0), 0.5, null=FreeState(lstm, noise=1.0)),
}


def build(state="normal"):
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, batch_first=True).double()
    model = ContextualRNN(lstm, STATES[state](lstm)).double()
    return model, torch.randn(B, T, 3).double(), torch.randn(B, 2).double()


def seeded():
    return torch.Generator().manual_seed(1)


def gradients(model, run, options, advance=0):
    """Value and gradients of `run(checkpoint or not, generator)`, and what the generator draws afterwards."""
    model, generator = copy.deepcopy(model), seeded()
    torch.manual_seed(2)

    def saving(function, *args):
        if options is None:
            return function(*args)
        early = options.get("early_stop", True)
        with set_checkpoint_early_stop(early):
            return checkpoint(function, *args, **{k: v for k, v in options.items() if k != "early_stop"})

    saving.nested = options is not None
    total = run(model, saving, generator)
    for _ in range(advance):
        torch.randn(7, generator=generator)  # between the passes
    before = generator.get_state()
    total.backward()
    assert torch.equal(before, generator.get_state())
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return [total.detach(), before, found, model.state_dict()]


def assert_same(model, run, options, advance=0):
    plain, saved = (gradients(model, run, given, advance) for given in (None, options))
    torch.testing.assert_close(saved, plain, rtol=1e-12, atol=1e-14)
    assert all(grad is not None for grad in plain[2].values())
    other = gradients(model, lambda m, s, g: run(m, s, g.manual_seed(3)), None)
    assert not torch.equal(other[0], plain[0]), "the draw matters"


COTANGENT = torch.linspace(-1, 1, B * T * 4, dtype=torch.float64).view(B, T, 4)


def loss(output):
    return (output * COTANGENT).sum() + output.square().sum()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", STATES)
def test_gradients_are_those_of_the_draws_that_were_made(state, way):
    model, x, context = build(state)

    def run(model, saving, generator):
        return loss(saving(lambda x: model(x, context=context, generator=generator)[0], x.clone().requires_grad_()))

    assert_same(model, run, WAYS[way], advance=1)


@pytest.mark.parametrize("way", WAYS)
def test_several_calls_with_one_generator_in_one_segment_and_in_several(way):
    model, x, context = build()

    def twice(model, generator, x):
        first = model(x, context=context, generator=generator)[0]
        return model(first[..., :3], context=context, generator=generator)[0]

    def run(model, saving, generator):
        x_ = x.clone().requires_grad_()
        segments = [saving(functools.partial(twice, model, generator), x_) for _ in range(3)]
        return sum(loss(output) * (index + 1) for index, output in enumerate(segments))

    assert_same(model, run, WAYS[way], advance=2)


def test_noise_by_the_error_is_that_of_the_forward_pass_when_a_backward_pass_came_between():
    model, x, _ = build("free, by its error")

    def run(model, saving, generator):
        outputs = [saving(lambda x: model(x, generator=generator)[0], x * scale) for scale in (1.0, 9.0)]
        loss(outputs[0]).backward(retain_graph=True)
        return loss(outputs[1]) + loss(outputs[0])

    assert_same(model, run, WAYS["not reentrant"])


@pytest.mark.parametrize("outer", ["reentrant", "not reentrant"])
@pytest.mark.parametrize("inner", ["reentrant", "not reentrant"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # of the inner one, in the first pass
def test_nested(outer, inner):
    model, x, context = build()

    def run(model, saving, generator):
        def inside(x):
            return model(x, context=context, generator=generator)[0]

        def outside(x):
            first = model(x, context=context, generator=generator)[0][..., :3]
            output = checkpoint(inside, first, **WAYS[inner]) if saving.nested else inside(first)
            return model(output[..., :3], context=context, generator=generator)[0]

        return loss(saving(outside, x.clone().requires_grad_()))

    assert_same(model, run, WAYS[outer])


@pytest.mark.parametrize("way", WAYS)
def test_resets_samples_and_states_alone(way):
    model, x, context = build()
    reset = torch.rand(B, T, generator=seeded()) < 0.4

    def run(model, saving, generator):
        def forward(x):
            output = model(x, context=context, reset=reset, generator=generator)[0]
            h, c = model.initial_state.sample(context, 2, generator=generator)
            alone, _ = model.initial_state(context, generator=generator)
            return output, h * c + 1, alone

        output, sampled, alone = saving(forward, x.clone().requires_grad_())
        return loss(output) + sampled.square().sum() + alone.pow(3).sum()

    assert_same(model, run, WAYS[way])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["reference", "attention", *["cpu"][: instruction_set() is not None]])
def test_fast_weights(backend, way):
    """torch.utils.checkpoint gives a backward pass what it saved once, and refuses to give it again."""
    torch.manual_seed(0)
    network = FastWeightsRNN(3, 4, batch_first=True, backend=backend)
    model = ContextualRNN(network, NormalState(network, net(), 1.0)).double()
    x, context = torch.randn(B, T, 3).double(), torch.randn(B, 2).double()

    def run(model, saving, generator):
        return loss(saving(lambda x: model(x, context=context, generator=generator)[0], x.clone().requires_grad_()))

    assert_same(model, run, WAYS[way])


def test_a_graph_that_is_gone_through_twice():
    model, x, context = build()
    grads = []
    for saving in (False, True):
        generator = seeded()
        run = lambda x: model(x, context=context, generator=generator)[0]  # noqa: B023, E731
        total = loss(checkpoint(run, x, use_reentrant=False) if saving else run(x))
        parameters = list(model.parameters())
        grads.append([torch.autograd.grad(total, parameters, retain_graph=True) for _ in range(2)])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-12, atol=1e-14)


def test_a_draw_that_cannot_be_matched_is_refused():
    """A checkpoint of somebody else's making runs the forward pass in the backward pass: nobody knows which draw."""
    model, x, context = build()
    generator = seeded()

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.no_grad():
                return model(x, context=context, generator=generator)[0]

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                return model(x, context=context, generator=generator)[0].mul(grad).sum() * grad[..., :3]

    output = Again.apply(x.requires_grad_())
    with pytest.raises(RuntimeError, match=r"generator: expected a draw that torch\.utils.checkpoint can repeat"):
        output.sum().backward()


def test_other_draws_in_the_recomputation_than_in_the_forward_pass_are_refused():
    model, x, context = build()
    generators = iter([seeded(), seeded()])

    def run(x):
        return model(x, context=context, generator=next(generators))[0]

    with pytest.raises(RuntimeError, match="generator: expected a draw"):
        loss(checkpoint(run, x, use_reentrant=False)).backward()


def test_nothing_is_recorded_outside_of_checkpoint(monkeypatch):
    from contextual_rnn.states import _recomputed

    monkeypatch.setattr(_recomputed, "_look_up", lambda: pytest.fail("looked at the stack"))
    model, x, context = build()
    tensors_of(model(x, context=context, generator=seeded()))[0].sum().backward()


def test_a_sequence_of_modules_in_checkpointed_pieces():
    """Its last piece is not checkpointed, and runs in a frame of torch.utils.checkpoint all the same."""
    model, x, context = build()

    class First(nn.Module):
        def __init__(self, generator):
            super().__init__()
            self.generator = generator

        def forward(self, x):
            return model(x, context=context, generator=self.generator)[0]

    class Last(First):
        def forward(self, output):
            return model(output[..., :3], context=context, generator=self.generator)[0]

    def gradient(saving):
        generator = seeded()
        model.zero_grad()
        pieces = nn.Sequential(First(generator), nn.Tanh(), Last(generator))
        inputs = x.clone().requires_grad_()
        output = checkpoint_sequential(pieces, 3, inputs, use_reentrant=False) if saving else pieces(inputs)
        loss(output).backward()
        return [inputs.grad, *(parameter.grad.clone() for parameter in model.parameters())]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-12, atol=1e-14)
