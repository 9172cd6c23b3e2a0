"""What users of other libraries ran into with states, resets, state files and layouts: each thread with its answer."""

import pytest
import torch
from tests.networks import tensors_of
from torch import distributed, nn

from contextual_rnn import (
    ConstantState,
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    Leaf,
    StateSpec,
    detach,
    state_spec,
    truncated,
)
from contextual_rnn.serialization import load_carried_state, save_carried_state


def contextual(network, **options):
    torch.manual_seed(0)
    return ContextualRNN(network, ContextState(network, nn.Linear(2, 6), **options))


class TestResets:
    def test_single_rows_of_a_stateful_batch_begin_anew(self):
        """A vector of flags, one a row: https://github.com/keras-team/keras/issues/2750"""
        model = contextual(nn.LSTM(3, 5, batch_first=True))
        first, second, context = torch.randn(4, 6, 3), torch.randn(4, 6, 3), torch.randn(4, 2)
        flags = torch.tensor([False, True, False, True])
        reset = torch.zeros(4, 6, dtype=torch.bool)
        reset[:, 0] = flags
        _, state = model(first, context=context)
        output, _ = model(second, state, context=context, reset=reset)
        going_on, anew = model(second, state)[0], model(second, context=context)[0]
        torch.testing.assert_close(output, torch.where(flags[:, None, None], anew, going_on))

    def test_short_texts_share_a_row(self):
        """A reset inside of a batch, not only between: https://github.com/keras-team/keras/issues/11175"""
        model = contextual(nn.GRU(3, 5, batch_first=True))
        texts, contexts = [torch.randn(1, n, 3) for n in (2, 3, 1)], torch.randn(3, 2)
        reset = torch.tensor([[True, False, True, False, False, True]])
        output, _ = model(torch.cat(texts, 1), context=contexts[:1], reset=reset, reset_context=contexts)
        alone = [model(text, context=contexts[k : k + 1])[0] for k, text in enumerate(texts)]
        torch.testing.assert_close(output, torch.cat(alone, 1))

    def test_between_episodes_the_models_own_state_comes_back_not_zero(self):
        """https://github.com/ray-project/ray/issues/15483"""
        lstm = nn.LSTM(3, 5, batch_first=True)
        model = ContextualRNN(lstm, ConstantState(lstm, (torch.full((1, 5), 0.1), torch.full((1, 5), 0.5))))
        x, done = torch.randn(1, 4, 3), torch.tensor([[False, False, True, False]])
        output, _ = model(x, reset=done)
        start = (torch.full((1, 1, 5), 0.1), torch.full((1, 1, 5), 0.5))
        torch.testing.assert_close(output[:, 2:], lstm(x[:, 2:], start)[0])

    @pytest.mark.parametrize("burn_in", [0, 1, 3])
    def test_stored_states_keep_their_batch_with_and_without_burn_in(self, burn_in):
        """Stored states of no row, or of the wrong number of them: https://github.com/ray-project/ray/issues/26833,
        https://github.com/ray-project/ray/issues/44383; burn-in as in https://github.com/ray-project/ray/pull/49680
        """
        model = contextual(nn.GRU(3, 5, batch_first=True))
        stored, x = torch.randn(1, 2, 5), torch.randn(2, 4, 3)
        lengths = torch.tensor([4, 1])
        output, state = model(x, stored, lengths=lengths, burn_in=burn_in)
        assert output.shape == (2, 4 - burn_in, 5)
        torch.testing.assert_close(state, model(x, stored, lengths=lengths)[1])
        with pytest.raises(ValueError, match=r"^hx: expected 'h' of batch size 2, as the input, got 0"):
            model(x, stored[:, :0], burn_in=burn_in)

    def test_padding_does_not_reach_the_returned_state(self):
        """https://github.com/ray-project/ray/issues/21392"""
        model = contextual(nn.LSTM(3, 5, batch_first=True))
        x, context = torch.randn(2, 5, 3), torch.randn(2, 2)
        _, (h, c) = model(x, context=context, mask=torch.arange(5) < torch.tensor([[2], [5]]))
        _, (wanted_h, wanted_c) = model(x[:1, :2], context=context[:1])
        torch.testing.assert_close((h[:, :1], c[:, :1]), (wanted_h, wanted_c))

    @pytest.mark.parametrize("kind", [nn.GRU, FastWeightsRNN])
    def test_burn_in_under_autocast_and_ddp_leaves_every_weight_its_gradient(self, kind):
        """Weights cast without gradients were kept for the steps with: https://github.com/pytorch/pytorch/issues/79841"""
        network = kind(3, 5, batch_first=True)
        model = ContextualRNN(network, ConstantState(network, 0.1) if kind is nn.GRU else FreeState(network))
        x, stored = torch.randn(2, 6, 3), ConstantState(network, 0.2)(batch_size=2)
        reset = torch.zeros(2, 6, dtype=torch.bool)  # the initial state takes part though nothing is reset
        wanted = torch.autograd.grad(model(x, stored, burn_in=2, reset=reset)[0].sum(), list(network.parameters()))
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        try:
            parallel = nn.parallel.DistributedDataParallel(model)
            for _ in range(2):  # DDP complains of parameters without a gradient at the second step
                parallel.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    output, _ = parallel(x, stored, burn_in=2, reset=reset)
                output.float().sum().backward()
            # Freed with the lock of Python held it waits for gloo's threads, and these may wait for the lock, unless
            # the group outlives it: one run of the tests in some dozens hung here.
            del parallel
        finally:
            distributed.destroy_process_group()
        for parameter, gradient in zip(network.parameters(), wanted, strict=True):
            # bfloat16 has 8 bits of mantissa; what was lost was whole gradients.
            torch.testing.assert_close(parameter.grad, gradient, rtol=0.05, atol=0.02 * float(gradient.abs().max()))

    def test_zero_or_stored_is_one_argument_and_a_learned_state_learns_from_resets(self):
        """https://github.com/danijar/dreamer/issues/24, https://github.com/danijar/dreamerv3/issues/82"""
        gru = nn.GRU(3, 5, batch_first=True)
        model = ContextualRNN(gru, FreeState(gru))
        x, stored, is_first = torch.randn(2, 4, 3), torch.randn(1, 2, 5), torch.zeros(2, 4, dtype=torch.bool)
        zero, kept = model(x)[0], model(x, stored)[0]
        torch.testing.assert_close((zero, kept), (gru(x)[0], gru(x, stored)[0]))
        is_first[1, 2] = True
        output, _ = model(x, stored, reset=is_first)
        (value,) = model.initial_state.parameters()
        (before,) = torch.autograd.grad(output[:, :2].sum() + output[0].sum(), value, retain_graph=True)
        (after,) = torch.autograd.grad(output[1, 2:].sum(), value)
        assert not before.any()
        assert after.any()


class Leaky(nn.Module):
    """Stands for cells of other libraries, such as liquid time-constant networks."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))

    def forward(self, x, state):
        state = {"v": 0.9 * state["v"] + x @ self.weight.T, "count": state["count"] + 1}
        return state["v"], state


@state_spec.register
def _(network: Leaky) -> StateSpec:
    return StateSpec({"v": Leaf("v", (5,)), "count": Leaf("count", (1,))}, input_ndim=2)


class TestStateFiles:
    def test_one_file_a_basin_without_pickle_and_without_the_context(self, tmp_path):
        """https://github.com/google-research/flood-forecasting/pull/268"""
        model = contextual(nn.LSTM(3, 5, batch_first=True))
        past, future, statics = torch.randn(3, 6, 3), torch.randn(3, 4, 3), torch.randn(3, 2)
        _, state = model(past, context=statics)
        spec = state_spec(model)
        leaves = spec.unpack(state)
        for basin in range(3):
            one = spec.pack({name: leaf[basin] for name, leaf in leaves.items()})
            save_carried_state(one, tmp_path / f"{basin}.safetensors", model)
        rows = [spec.unpack(load_carried_state(tmp_path / f"{basin}.safetensors", model)) for basin in range(3)]
        warm = spec.pack({leaf.name: torch.stack([row[leaf.name] for row in rows]) for leaf in spec})
        assert torch.equal(model(future, warm)[0], model(future, state)[0])

    def test_hidden_states_of_other_peoples_cells_are_saved_for_inference(self, tmp_path):
        """https://github.com/mlech26l/ncps/issues/74"""
        network = Leaky()
        state = {"v": torch.randn(2, 5), "count": torch.ones(2, 1)}
        save_carried_state(state, tmp_path / "state", network)
        found = load_carried_state(tmp_path / "state", network)
        assert set(found) == set(state)
        assert all(torch.equal(found[name], state[name]) for name in state)

    def test_a_detached_state_trains_on(self):
        """Each segment from the last one's detached state, after an optimizer's step: the state must not be one that is
        written in place. https://github.com/NX-AI/xlstm/issues/96, https://github.com/NX-AI/xlstm/issues/22
        """
        for network in (nn.LSTM(3, 5, batch_first=True), FastWeightsRNN(3, 5, batch_first=True)):
            model = ContextualRNN(network, FreeState(network))
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            state, kept = None, []
            with torch.autograd.set_detect_anomaly(True):
                for _, output, new in truncated(model, torch.randn(2, 9, 3), 3):
                    kept.append((new, [tensor.clone() for tensor in tensors_of(new)]))
                    optimizer.zero_grad()
                    output.square().mean().backward()
                    optimizer.step()
                    state = detach(new)
            assert not any(tensor.requires_grad for tensor in tensors_of(state))
            for new, copies in kept:
                assert all(map(torch.equal, tensors_of(new), copies)), "no state was overwritten"


class TestLayout:
    @pytest.mark.parametrize("rows", [1, 4])
    def test_states_are_contiguous_and_rows_share_no_memory(self, rows):
        """Expanded parameters: https://github.com/unit8co/darts/issues/730, https://github.com/allenai/allennlp/issues/1486,
        https://github.com/facebookresearch/habitat-lab/pull/901, and values that rows share:
        https://github.com/deepsound-project/samplernn-pytorch/issues/32
        """
        lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
        reset_rows = torch.zeros(rows, dtype=torch.int64)
        for state in (ConstantState(lstm, 0.1), FreeState(lstm), contextual(lstm).initial_state):
            for options in ({}, {"rows": reset_rows}):
                for leaf in state(torch.randn(rows, 2), rows, **options):
                    assert leaf.is_contiguous()
                    before = leaf.detach().clone()
                    leaf.detach()[0, 0] += 1
                    assert torch.equal(leaf[1:], before[1:])
                    assert torch.equal(leaf[:, 1:], before[:, 1:])

    def test_contexts_have_the_batch_first_and_flags_the_layout_of_the_input(self):
        """A state's layout ignores it: https://github.com/pytorch/pytorch/issues/4145,
        https://github.com/pytorch/pytorch/issues/144116
        """
        first, second = (nn.GRU(3, 5, batch_first=batch_first) for batch_first in (True, False))
        second.load_state_dict(first.state_dict())
        model = contextual(first)
        other = ContextualRNN(second, model.initial_state)
        x, context = torch.randn(4, 6, 3), torch.randn(4, 2)
        given, reset = {"context": context, "lengths": torch.tensor([6, 1, 4, 2])}, torch.rand(4, 6) < 0.3
        output, state = model(x, reset=reset, **given)
        other_output, other_state = other(x.transpose(0, 1), reset=reset.T, **given)
        torch.testing.assert_close((output, state), (other_output.transpose(0, 1), other_state))

    def test_layers_and_directions_are_named_by_their_place(self):
        """Layer by layer, and in each forwards before backwards: https://github.com/OpenNMT/OpenNMT-py/issues/61"""
        gru = nn.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True)
        h0 = torch.randn(1, 4, 5)  # (batch, layers * directions, hidden), as spec.pack takes it
        x = torch.randn(1, 6, 3)
        found, _ = gru(x, state_spec(gru).pack({"h": h0}))
        inputs = x
        for layer in range(2):
            outputs = []
            for direction, suffix in enumerate(("", "_reverse")):
                one = nn.GRU(inputs.shape[2], 5, batch_first=True)
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                one.load_state_dict({f"{n}_l0": getattr(gru, f"{n}_l{layer}{suffix}") for n in names})
                steps = inputs.flip(1) if direction else inputs
                output, _ = one(steps, h0[:, layer * 2 + direction][None])
                outputs.append(output.flip(1) if direction else output)
            inputs = torch.cat(outputs, 2)
        torch.testing.assert_close(found, inputs)
