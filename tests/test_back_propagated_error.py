"""Noise of a FreeState that follows the error back-propagated to it."""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn

from contextual_rnn import ContextualRNN, FreeState

B, H = 5, 4


def free(noise=0.5, error_decay=0.75, network=None):
    torch.manual_seed(0)
    network = nn.GRUCell(3, H).double() if network is None else network
    value = torch.randn(H, dtype=torch.float64) if isinstance(network, nn.GRUCell) else 0.0
    return FreeState(network, noise=noise, value=value, error_decay=error_decay)


def back_propagate(state, cotangent):
    h = state(batch_size=len(cotangent))
    h.backward(cotangent)


def scale_of(state):
    return state.moments(None, B, None)["h"].scale


def test_the_noise_is_the_moving_root_mean_square_of_the_gradient_relative_to_the_first():
    state = free()
    cotangents = torch.randn(3, B, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cotangents *= torch.tensor([3.0, 0.5, 0.1]).view(3, 1, 1)
    torch.testing.assert_close(scale_of(state), torch.full((H,), 0.5, dtype=torch.float64))
    square, first = None, None
    for cotangent in cotangents:
        back_propagate(state, cotangent)
        new = cotangent.square().mean(0)
        square = new if square is None else 0.75 * square + 0.25 * new
        first = new.mean().sqrt() if first is None else first
        torch.testing.assert_close(scale_of(state), 0.5 * square.sqrt() / first)


@pytest.mark.parametrize("size", [1, None])
def test_one_row_and_one_unbatched_example(size):
    state = free(error_decay=0.0)
    for factor in (1.0, 0.25):
        h = state(batch_size=size)
        h.backward(factor * torch.arange(1.0, H + 1, dtype=torch.float64).expand_as(h))
    expected = 0.5 * 0.25 * torch.arange(1.0, H + 1) / torch.arange(1.0, H + 1).square().mean().sqrt()
    torch.testing.assert_close(scale_of(state), expected.double())


def test_the_scale_is_that_of_the_draws_and_evaluation_is_without():
    state = free(error_decay=0.0)
    cotangent = torch.ones(B, H, dtype=torch.float64) * torch.tensor([0.0, 1.0, 2.0, 4.0])
    back_propagate(state, cotangent)
    draws = state(batch_size=20_000, generator=torch.Generator().manual_seed(2)).detach()
    scale = 0.5 * torch.tensor([0.0, 1.0, 2.0, 4.0]).double() / 5.25**0.5
    # The standard error of a deviation from 20,000 draws is 1/200 of it; five of them.
    torch.testing.assert_close(draws.std(0), scale, rtol=0.025, atol=1e-12)
    assert state.eval()(batch_size=B).eq(state.values["h"]).all()


def test_neither_the_losss_unit_nor_a_mean_over_the_batch_matters():
    states = [free(), free()]
    for step in range(3):
        cotangent = torch.randn(B, H, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        for state, unit in zip(states, (1.0, 1e-3), strict=True):
            torch.manual_seed(step)
            back_propagate(state, unit * cotangent)
    torch.testing.assert_close(scale_of(states[0]), scale_of(states[1]))


def test_what_is_not_finite_is_passed_over_and_zero_does_not_count_as_first():
    state = free(error_decay=0.0)
    for bad in (0.0, torch.inf, torch.nan):
        back_propagate(state, torch.full((B, H), bad, dtype=torch.float64))
        assert scale_of(state).eq(0.5).all()
    back_propagate(state, torch.ones(B, H, dtype=torch.float64))
    back_propagate(state, torch.full((B, H), torch.nan, dtype=torch.float64))
    assert scale_of(state).eq(0.5).all()
    back_propagate(state, torch.zeros(B, H, dtype=torch.float64))
    assert scale_of(state).eq(0).all()


def test_evaluation_and_frozen_parameters_leave_it_alone():
    state = free()
    back_propagate(state, torch.ones(B, H, dtype=torch.float64))
    before = copy.deepcopy(state.state_dict())
    back_propagate(state.eval(), 9 * torch.ones(B, H, dtype=torch.float64))
    state.train().requires_grad_(False)
    state(batch_size=B)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.state_dict().items())


def test_it_is_saved_and_copied_with_the_module():
    state, other = free(), free()
    back_propagate(state, torch.randn(B, H, dtype=torch.float64))
    back_propagate(state, torch.randn(B, H, dtype=torch.float64))
    assert not torch.equal(scale_of(state), scale_of(other))
    other.load_state_dict(state.state_dict())
    assert torch.equal(scale_of(state), scale_of(other))
    assert torch.equal(scale_of(state), scale_of(copy.deepcopy(state)))


def test_gradients_are_those_of_fixed_noise_and_every_leaf_is_seen():
    lstm = nn.LSTM(3, H, num_layers=2, batch_first=True)
    gradients = []
    for error_decay in (None, 0.5):
        model = ContextualRNN(lstm, free(error_decay=error_decay, network=lstm))
        x = torch.randn(B, 6, 3, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(4)
        output, (h, c) = model(x)
        loss = output.square().sum() + (h * torch.randn(h.shape)).sum() + (c * torch.randn(c.shape)).sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    for name in ("h", "c"):
        scale = model.initial_state.moments(None, B, None)[name].scale
        assert scale.shape == (2, H)
        assert len(scale.unique()) == 2 * H


def test_growing_errors_are_shared_out_but_never_raise_the_noise():
    state = free(error_decay=0.0)
    back_propagate(state, torch.full((B, H), 0.1, dtype=torch.float64))
    back_propagate(state, torch.arange(1e3, 1e3 * (H + 1), 1e3, dtype=torch.float64).expand(B, H))
    shares = torch.arange(1.0, H + 1, dtype=torch.float64)
    torch.testing.assert_close(scale_of(state), 0.5 * shares / shares.square().mean().sqrt())
    back_propagate(state, torch.full((B, H), 1e200, dtype=torch.float64))  # whose square is not finite
    torch.testing.assert_close(scale_of(state), 0.5 * shares / shares.square().mean().sqrt())


def test_noise_that_raises_its_own_error_does_not_run_away():
    state = free(noise=1.0, error_decay=0.0)
    for _ in range(50):
        state(batch_size=B).pow(4).sum().backward()  # as steep as a state is large
    assert scale_of(state).square().mean().sqrt() <= 1 + 1e-12


@pytest.mark.parametrize("wrong", [-0.1, 1.0, float("nan")])
def test_a_wrong_decay_is_refused(wrong):
    with pytest.raises(ValueError, match="error_decay: expected a number from 0 to below 1, got"):
        FreeState(nn.GRUCell(3, H), noise=0.1, error_decay=wrong)


def test_a_decay_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="error_decay: expected a number from 0 to below 1, got True"):
        FreeState(nn.GRUCell(3, H), noise=0.1, error_decay=True)


def test_torch_compile_is_refused_by_name():
    compiled = torch.compile(free(), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="error_decay: expected None under"):
        compiled(batch_size=B)


def train(amp, unscale, *, micro=1, overflow=(3,), growth_interval=2, elsewhere=False):
    """Twelve steps in which nothing is learned; `unscale` names where the scaler is given. What `relative` is then."""
    torch.manual_seed(0)
    gru = nn.GRU(3, H)
    h0 = FreeState(gru, noise=0.1, error_decay=0.5)
    model, x, other = ContextualRNN(gru, h0), torch.randn(7, B, 3), nn.Parameter(torch.zeros(()))
    scaler = torch.amp.GradScaler("cpu", enabled=amp, growth_interval=growth_interval)
    optimizer = torch.optim.SGD([*model.parameters(), other], 0.0)
    give = lambda place: h0.error.unscale(scaler) if place == unscale else None  # noqa: E731
    give("once")
    for step in range(12):
        optimizer.zero_grad()
        before = copy.deepcopy(h0.error.state_dict())
        for part in range(micro):
            give("before the forward pass")
            loss = model(x)[0].square().mean() / (1 + step)
            overflows = step in overflow and part == micro - 1
            if elsewhere:
                loss = loss + other * (torch.inf if overflows else 1.0)
            elif overflows:
                loss = loss * torch.inf
            give("before the backward pass")
            scaler.scale(loss).backward()
        give("after the backward pass")
        if not amp and step in overflow:
            if elsewhere:  # what the scaler does: nothing of this step counts
                h0.error.load_state_dict(before)
            continue
        scaler.step(optimizer)
        give("after the step")
        scaler.update()
    return h0.error.relative("h")


@functools.cache
def trained_with_the_scaler_nowhere(amp, *options):
    """The same for every place."""
    return train(amp, None, **dict(options))


PLACES = ["once", "before the forward pass", "before the backward pass", "after the backward pass", "after the step"]


@pytest.mark.parametrize("options", [{}, {"micro": 2}, {"overflow": (0, 1)}, {"elsewhere": True}], ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_loss_scale_is_divided_out_wherever_the_scaler_is_given(place, options):
    plain = trained_with_the_scaler_nowhere(False, *options.items())
    torch.testing.assert_close(train(False, place, **options), plain, rtol=0, atol=0)
    torch.testing.assert_close(train(True, place, **options), plain)
    scaled = trained_with_the_scaler_nowhere(True, *options.items())
    assert not torch.allclose(scaled, plain, rtol=0.1), "the scale matters"


def test_two_parts_of_a_step_that_overflows_in_the_last():
    """The first is measured as without a scaler, since no part of the step can know what the others will be."""
    plain = train(False, None, micro=2, overflow=(0, 5))
    torch.testing.assert_close(train(True, "once", micro=2, overflow=(0, 5)), plain)


def test_a_scaler_that_was_not_used_yet_leaves_what_was_measured():
    state = free()
    back_propagate(state, torch.rand(B, H, dtype=torch.float64))
    before = copy.deepcopy(state.state_dict())
    state.error.unscale(torch.amp.GradScaler("cpu"))
    assert all(torch.equal(before[name], tensor) for name, tensor in state.state_dict().items())
    used = torch.amp.GradScaler("cpu")
    used.scale(torch.ones(()))
    other = free()
    other.load_state_dict(before)
    other.error.unscale(used)  # as when training is resumed
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_the_scaler_is_no_part_of_the_module_and_copies_are_without():
    state, scaler = free(), torch.amp.GradScaler("cpu")
    names = list(state.state_dict())
    state.error.unscale(scaler)
    scaler.scale(state(batch_size=B).sum()).backward()  # a scaler that may not be pickled in the middle of a step
    scaler.unscale_(torch.optim.SGD(state.parameters(), 0.1))
    assert list(state.state_dict()) == names
    for other in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert torch.equal(scale_of(other), scale_of(state))
        for each in (state, other):
            each.zero_grad()
        torch.manual_seed(0)
        back_propagate(state, 65536.0 * torch.ones(B, H, dtype=torch.float64))
        torch.manual_seed(0)
        back_propagate(other, torch.ones(B, H, dtype=torch.float64))
        torch.testing.assert_close(scale_of(other), scale_of(state))
    state.error.unscale(None)
    back_propagate(state, torch.ones(B, H, dtype=torch.float64))
    torch.testing.assert_close(scale_of(state).mean(), scale_of(other).mean(), rtol=0.2, atol=0)


def test_what_is_no_scaler_is_refused():
    with pytest.raises(TypeError, match="scaler: expected a GradScaler or None, got float"):
        free().error.unscale(65536.0)
