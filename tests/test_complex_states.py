"""Complex leaves work in a state, or are refused when it is built."""

import pytest
import torch
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    Leaf,
    NormalState,
    StateSpec,
    SumState,
    state_spec,
)
from contextual_rnn.diagnostics import diagnose

B = 5
COMPLEX = StateSpec((Leaf("z", (3,)), Leaf("r", (3,), dtype=torch.float32)), dtype=torch.complex64)


def test_complex_leaves_are_constant_free_and_contextual():
    torch.manual_seed(0)
    start = (torch.randn(3, dtype=torch.complex64), torch.randn(3))
    for state in (ConstantState(COMPLEX, start), FreeState(COMPLEX, value=start)):
        z, r = state(batch_size=2)
        assert torch.equal(z, start[0].expand(2, 3))
        assert torch.equal(r, start[1].expand(2, 3))
    drawn = FreeState(COMPLEX, noise=0.5)(batch_size=20_000)[0]
    for part in (drawn.real, drawn.imag):  # half of E |epsilon|^2 each; five standard errors of a deviation
        assert part.std().item() == pytest.approx(0.5 / 2**0.5, rel=0.015)
    net, context = nn.Linear(2, 6), torch.randn(B, 2, requires_grad=True)
    state = ContextState(COMPLEX, net)
    (z, r), head = state(context), state.heads.layers["z"]
    features = net(context)
    expected = (features @ head.weight.T + head.bias).unflatten(1, (3, 2))
    torch.testing.assert_close(torch.view_as_real(z), expected)
    assert r.dtype == torch.float32
    (z.abs().square().sum() + r.sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in [context, *state.parameters()])
    assert state.double()(context.detach().double())[0].dtype == torch.complex128
    with torch.autocast("cpu", torch.bfloat16):
        assert state.float()(context.detach())[0].dtype == torch.complex64
    started = ContextState(COMPLEX, nn.Linear(2, 6), zero_init=True)(context)
    assert started[0].eq(0).all()
    own = ContextState(StateSpec(Leaf("z", (3,), dtype=torch.complex64)), net.double())
    assert own(context.detach().double()).dtype == torch.complex64


def test_complex_leaves_interpolated_and_dropped():
    free, contextual = FreeState(COMPLEX, value=1.0), ContextState(COMPLEX, nn.Linear(2, 6))
    context = torch.randn(B, 2)
    z = SumState([free, contextual], [0.3, 0.7])(context)[0]
    torch.testing.assert_close(z, 0.3 + 0.7 * contextual(context)[0])
    dropout = ContextDropout(contextual, guidance=2.0).eval()
    torch.testing.assert_close(dropout(context)[0], 2 * contextual(context)[0])


def test_complex_leaves_are_refused_where_they_would_not_work():
    for make in (lambda: NormalState(COMPLEX, nn.Linear(2, 3)), lambda: NormalState(COMPLEX, FreeState(COMPLEX))):
        with pytest.raises(
            ValueError, match=r"^network: expected a state of real numbers .*, got 'z' of torch.complex64"
        ):
            make()
    with pytest.raises(ValueError, match=r"^error_decay: expected None for complex numbers"):
        FreeState(COMPLEX, noise=0.1, error_decay=0.5)


class Rotation(nn.Module):
    """A complex state, turned and damped; the outputs are complex or real and imaginary parts side by side."""

    def __init__(self, parts):
        super().__init__()
        self.turn, self.parts = nn.Parameter(torch.randn(3, dtype=torch.complex64)), parts

    def forward(self, x, z):
        outputs = []
        for step in x.unbind(1):
            z = 0.5 * z * self.turn / self.turn.abs() + step
            outputs.append(torch.view_as_real(z).flatten(1) if self.parts else z)
        return torch.stack(outputs, 1), z


@state_spec.register
def _(network: Rotation) -> StateSpec:
    return StateSpec(Leaf("z", (3,)), input_ndim=3)


@pytest.mark.parametrize("parts", [True, False])
def test_the_influence_of_a_complex_state_counts_both_parts(parts):
    """|z(t)| = 0.5^t |z(0)|, so the influence on the six real numbers of z(t) is 0.5^t."""
    torch.manual_seed(0)
    network = Rotation(parts)
    model = ContextualRNN(network, FreeState(network, noise=0.5, value=1.0))
    x = torch.randn(8, 3, 3)
    found = diagnose(model, lambda: model(x)[0].abs().square().mean(2), permutations=0)
    torch.testing.assert_close(found.influence.total, torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64))
    assert found.sigma["z"].mean == pytest.approx(0.5)
