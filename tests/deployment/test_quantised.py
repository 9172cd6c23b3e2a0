"""Dynamic quantisation to int8, of the network under the model, of the state's linear layers, or of both.

torch 2.13 calls these tensors deprecated (https://github.com/pytorch/pytorch/issues/184982) and has no other way yet.
"""

import pytest
import torch
from tests.deployment.matrix import STATES, build, inputs_for
from tests.networks import tensors_of
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils.rnn import pack_padded_sequence

from contextual_rnn import ContextState, FreeState, attach, given_context, state_spec

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated"),
    pytest.mark.skipif(not torch.backends.quantized.supported_engines, reason="torch has no quantised kernels here"),
]
# What torch quantises: of its networks neither nn.RNN nor a projection, no cell without bias, and no fast weights.
NETWORKS = ["gru", "lstm deep both ways", "rnn cell", "lstm cell"]
CASES = [*(f"{state} lstm" for state in STATES), *(f"context {name}" for name in NETWORKS)]


@pytest.mark.parametrize("layers", ["network", "linear", "both"])
@pytest.mark.parametrize("case", CASES)
def test_values_within_a_part_in_a_hundred(case, layers):
    """Eight bits a weight: steps of 1/127 of its largest, over 4 steps of networks whose values are near 1."""
    model = build(case).eval()
    kinds = {"network": {type(model.network)}, "linear": {nn.Linear}, "both": {type(model.network), nn.Linear}}[layers]
    quantised = quantize_dynamic(model, kinds)
    x, context = inputs_for(model, 3)
    with torch.no_grad():
        found, wanted = quantised(x, context=context), model(x, context=context)
        # The network that runs is the quantised one, from the state that the model makes.
        direct = quantised.network(x, quantised.initial_state(context, 3))
    assert all(map(torch.equal, tensors_of(found), tensors_of(direct)))
    if layers == "network" or case.startswith("context"):
        assert not torch.equal(tensors_of(found)[0], tensors_of(wanted)[0]), "nothing was quantised"
    for tensor, full in zip(tensors_of(found), tensors_of(wanted), strict=True):
        torch.testing.assert_close(tensor, full, rtol=0.05, atol=0.05)


def test_lengths_and_resets_equal_those_of_each_row():
    """Each row's activations have a scale of their own alone: within that of a batch."""
    quantised = quantize_dynamic(build("context lstm").eval(), {nn.LSTM, nn.Linear})
    x, context = inputs_for(quantised, 3)
    lengths = torch.tensor([4, 0, 2])
    with torch.no_grad():
        output, (h, _) = quantised(x, context=context, lengths=lengths)
        for row, length in enumerate(lengths.tolist()):
            assert not output[row, length:].any()
            if length:
                wanted, (last, _) = quantised(x[row : row + 1, :length], context=context[row : row + 1])
                torch.testing.assert_close(output[row : row + 1, :length], wanted, rtol=0, atol=0.02)
                torch.testing.assert_close(h[:, row], last[:, 0], rtol=0, atol=0.02)


@pytest.mark.parametrize("hosted", [True, False])
def test_a_state_is_attached_after_the_quantisation(hosted):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True)

        def forward(self, x, static=None):
            return self.lstm(x)[0]

    def attached(network):
        state = ContextState(network, nn.Linear(2, 4))
        return attach(network, state, **{"host": quantised, "context": "static"} if hosted else {})

    model, x, static = Model().eval(), torch.randn(2, 4, 3), torch.randn(2, 2)
    quantised = quantize_dynamic(model, {nn.LSTM})
    quantised.lstm.state_spec = state_spec(model.lstm)
    attached(quantised.lstm)
    with torch.no_grad(), given_context(static):
        state = quantised.lstm.initial_state(static)
        assert torch.equal(quantised(x, static=static), quantised.lstm(x, state)[0])
    attach(model.lstm, FreeState(model.lstm))
    lost = quantize_dynamic(model, {nn.LSTM})
    message = r"^network: expected the one to which .* got LSTM\(3, 5, .* of torch.ao.* quantise first"
    with pytest.raises(ValueError, match=message):
        lost(x)


def test_carried_packed_and_refused():
    model = build("context lstm").eval()
    quantised = quantize_dynamic(model, {nn.LSTM, nn.Linear})
    x, context = inputs_for(model, 3)
    with torch.no_grad():
        whole, final = quantised(x, context=context)
        first, state = quantised(x[:, :2], context=context)
        second, state = quantised(x[:, 2:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=0.02)  # other activations' scale
        packed = pack_padded_sequence(x, torch.tensor([4, 4, 4]), batch_first=True)
        torch.testing.assert_close(quantised(packed, context=context)[0].data.sum(), whole.sum(), rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match=r"^context: expected a batch of 3, as the input has, got 2"):
        quantised(x, context=context[:2])
    with pytest.raises(ValueError, match=r"^hx: expected 'h' of batch size 3, as the input, got 2"):
        quantised(x, tuple(leaf[:, :2] for leaf in final))
