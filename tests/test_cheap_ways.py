"""Calls that need no segments or packing do without, and give the numbers of those that do."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.networks import make, make_input, tensors_of
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from contextual_rnn import ContextState, ContextualRNN, NormalState, truncated
from contextual_rnn.sequences import padded, segments
from contextual_rnn.sequences.padded import needs_no_packing
from contextual_rnn.sequences.segments import Segments

CASES = ["lstm", "gru", "rnn cell", "fast weights", "own cell"]


@pytest.fixture
def without_segments(monkeypatch):
    def refuse(*_):
        raise AssertionError("the batch was cut into segments")

    monkeypatch.setattr(Segments, "between", refuse)


def random_state(model, context):
    """A state that the network has after some steps."""
    with torch.no_grad():
        state = model.initial_state(context)
        return model._spec.lerp(state, model.initial_state(torch.randn_like(context)), 1.7)


def model_of(case, dtype=torch.float64):
    network, spec = make(case, dtype)
    return ContextualRNN(network, ContextState(spec, nn.Linear(2, 6, dtype=dtype)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps", [1, 4])
def test_no_flag_set_is_a_plain_call(case, steps, without_segments):
    model, context = model_of(case), torch.randn(3, 2).double()
    x, hx = make_input(model.network, 3, steps, torch.float64), random_state(model, context)
    cell = x.ndim == 2
    reset = torch.zeros(3 if cell else x.shape[:2], dtype=torch.bool)
    for options in ({"context": context}, {"hx": hx, "context": context}):
        with torch.no_grad():
            assert all(map(torch.equal, tensors_of(model(x, **options, reset=reset)), tensors_of(model(x, **options))))
    tensors_of(model(x, hx, context=context, reset=reset))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("carried", [False, True])
def test_one_step_with_flags_replaces_rows_of_the_state(case, carried, without_segments):
    model, context = model_of(case), torch.randn(3, 2).double()
    x = make_input(model.network, 3, 1, torch.float64)
    hx = random_state(model, context) if carried else None
    batch_dim, flags = model._spec.input_batch_dim, torch.tensor([True, False, True])
    cell = x.ndim == 2
    reset = flags if cell else flags[:, None] if batch_dim == 0 else flags[None]
    start = model._spec.where(flags, model.initial_state(context), hx) if carried else model.initial_state(context)
    results = [tensors_of(model(x, hx, context=context, reset=reset)), tensors_of(model(x, start))]
    cotangents, parameters = [torch.randn_like(tensor) for tensor in results[0]], list(model.parameters())
    gradients = [torch.autograd.grad(tensors, parameters, cotangents) for tensors in results]
    for ours, theirs in zip((*results[0], *gradients[0]), (*results[1], *gradients[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_rows_that_begin_anew_draw_as_many_numbers_as_they_are():
    network = nn.GRUCell(3, 5)
    model = ContextualRNN(network, NormalState(network, nn.Linear(2, 4)))
    x, context, flags = torch.randn(3, 3), torch.randn(3, 2), torch.tensor([True, False, True])
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    model(x, torch.randn(3, 5), context=context, reset=flags, generator=generators[0])
    model.initial_state(context, rows=flags.nonzero()[:, 0], generator=generators[1])
    assert torch.equal(*(torch.rand(4, generator=generator) for generator in generators))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_one_layer_needs_no_packing(monkeypatch, kind, batch_first):
    """Every gradient too; the padding is NaN."""
    torch.manual_seed(0)
    network = kind(3, 5, batch_first=batch_first, dtype=torch.float64)
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 4).double()), "torch")
    lengths, context = torch.tensor([4, 1, 6]), torch.randn(3, 2).double()
    x = torch.randn(3, 6, 3).double()
    x[torch.arange(6) >= lengths[:, None]] = torch.nan
    x = (x if batch_first else x.transpose(0, 1)).requires_grad_()
    packed = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)
    output, state = network(packed, model.initial_state(context))
    expected = [pad_packed_sequence(output, batch_first=batch_first, total_length=6)[0], state]
    monkeypatch.setattr(padded, "pack_padded_sequence", None)
    actual = model(x, context=context, lengths=lengths)
    cotangents, leaves = [torch.randn_like(tensor) for tensor in expected], [x, *model.parameters()]
    gradients = [torch.autograd.grad(tensors, leaves, cotangents) for tensors in (actual, expected)]
    for ours, theirs in zip((*actual, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_what_does_need_packing():
    """Layers below the last, c of an LSTM, both directions, units without a bound, and hooks, which see what is run."""
    hooked = nn.GRU(3, 5)
    hooked.register_forward_pre_hook(lambda *_: None)
    others = [nn.LSTM(3, 5), nn.GRU(3, 5, bidirectional=True), nn.GRU(3, 5, 2), nn.RNN(3, 5, nonlinearity="relu")]
    assert not any(map(needs_no_packing, [*others, hooked]))
    assert [needs_no_packing(network, final_state=False) for network in [*others, hooked]] == [
        True,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_without_the_final_state_layers_and_lstms_need_no_packing(monkeypatch, kind, batch_first):
    """Outputs and every gradient are those with it; the padding is NaN."""
    torch.manual_seed(0)
    network = kind(3, 5, 2, batch_first=batch_first, dtype=torch.float64)
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 4).double()), "torch")
    lengths, context = torch.tensor([4, 1, 6]), torch.randn(3, 2).double()
    x = torch.randn(3, 6, 3).double()
    x[torch.arange(6) >= lengths[:, None]] = torch.nan
    x = (x if batch_first else x.transpose(0, 1)).requires_grad_()
    expected, _ = model(x, context=context, lengths=lengths)
    monkeypatch.setattr(padded, "pack_padded_sequence", None)
    actual, state = model(x, context=context, lengths=lengths, final_state=False)
    assert state is None
    cotangent, leaves = torch.randn_like(expected), [x, *model.parameters()]
    gradients = [torch.autograd.grad(tensor, leaves, cotangent) for tensor in (actual, expected)]
    for ours, theirs in zip((actual, *gradients[0]), (expected, *gradients[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["lstm", "gru", "fast weights"])
@pytest.mark.parametrize("options", [{}, {"lengths": torch.tensor([4, 0, 2])}, {"burn_in": 2}, {"num_samples": 2}])
def test_without_the_final_state_outputs_are_the_same(case, options):
    model, context = model_of(case), torch.randn(3, 2).double()
    x = make_input(model.network, 3, 4, torch.float64)
    output, state = model(x, context=context, final_state=False, **options)
    assert state is None
    torch.testing.assert_close(output, model(x, context=context, **options)[0], rtol=1e-12, atol=1e-12)
    reset = torch.zeros(x.shape[:2], dtype=torch.bool)
    reset[1] = True
    output, state = model(x, context=context, reset=reset, final_state=False)
    assert state is None
    torch.testing.assert_close(output, model(x, context=context, reset=reset)[0], rtol=1e-12, atol=1e-12)


def test_a_cell_has_nothing_but_its_state():
    model, context = model_of("rnn cell"), torch.randn(3, 2).double()
    x = make_input(model.network, 3, 1, torch.float64)
    with pytest.raises(ValueError, match=r"final_state: expected only with a padded batch .* an input of one step"):
        model(x, context=context, final_state=False)
    with pytest.raises(TypeError, match="final_state: expected True or False, got 0"):
        model(x, context=context, final_state=0)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("case", ["fast weights", "fast weights, dense A", "fast weights, low-rank A"])
def test_segments_of_fast_weights_run_in_groups(monkeypatch, case, batch_first):
    """As in one call, with every gradient and the A that is carried; one row is empty."""
    network, spec = make(case, torch.float64)
    network.batch_first = batch_first
    spec = replace(spec, input_batch_dim=0 if batch_first else 1, time_dim=1 if batch_first else 0)
    monkeypatch.setattr(network, "state_spec", spec, raising=False)
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 6).double()))
    x, context, lengths = torch.randn(5, 9, 3).double(), torch.randn(5, 2).double(), torch.tensor([9, 0, 4, 9, 1])
    reset = torch.rand(5, 9) < 0.3
    x[torch.arange(9) >= lengths[:, None]] = torch.nan
    if not batch_first:
        x, reset = x.transpose(0, 1), reset.T
    x.requires_grad_()
    calls, results = [], []
    network.register_forward_hook(lambda *_: calls.append(1))
    for worth_a_call in (10_000, 0):
        monkeypatch.setattr(segments, "_WORTH_A_CALL", worth_a_call)
        calls.clear()
        output, state = model(x, context=context, lengths=lengths, reset=reset)
        pieces = [out for _, out, _ in truncated(model, x, 5, context=context, lengths=lengths, reset=reset)]
        values = [output, state[0], torch.cat(pieces, 1 if batch_first else 0)]
        generator = torch.Generator().manual_seed(0)
        cotangents = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in values]
        results.append([*values, *torch.autograd.grad(values, [x, *model.parameters()], cotangents)])
    assert len(calls) > 3
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 4000), min_size=1, max_size=60).filter(any))
def test_groups_of_segments_waste_little(lengths):
    """At most as many steps as a call is worth for the last of all, a half of that for the one before, a third, ..."""
    every = torch.tensor(lengths)
    rows = torch.arange(len(lengths))
    groups = Segments(torch.stack([rows, rows, every, torch.ones_like(rows)])).of_about_one_length()
    assert torch.equal(torch.cat(groups).sort().values, every.nonzero()[:, 0])
    longest = [int(every[group].max()) for group in groups]
    assert longest == sorted(longest, reverse=True)
    for group, most in zip(groups, longest, strict=True):
        short = every[group][every[group] < 0.75 * most]
        assert int((most - short).sum()) <= segments._WORTH_A_CALL * (1 + math.log(len(lengths)))
