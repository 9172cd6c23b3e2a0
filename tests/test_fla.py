"""Layers of flash-linear-attention: their registration is right, as far as a CPU can run them."""

from importlib.util import find_spec

import pytest
from tests import fresh

pytestmark = pytest.mark.skipif(find_spec("fla") is None, reason="comes with `make integrations`")
LAYERS = {
    "delta rule": "DeltaNet(hidden_size=16, num_heads=2, use_short_conv=False, layer_idx=1)",
    "gated delta rule": "GatedDeltaNet(hidden_size=16, head_dim=8, num_heads=2, use_short_conv=False, layer_idx=0)",
    "gated": "GatedLinearAttention(hidden_size=16, num_heads=2, layer_idx=0)",
    "gated, with convolutions": "GatedLinearAttention(hidden_size=16, num_heads=2, use_short_conv=True, layer_idx=0)",
}
CODE = """
import warnings

warnings.simplefilter("ignore")
import tests.fla_on_cpu  # before the package
import torch
from fla import layers
from contextual_rnn import ContextState, ContextualRNN, check_spec

torch.manual_seed(0)
network = layers.{layer}
x = torch.randn(2, 4, 16)
check_spec(network, x)
model = ContextualRNN(network, ContextState(network, torch.nn.Linear(2, 8)))
output, state = model(x, context=torch.randn(2, 2))
output.square().sum().backward()
print(all(parameter.grad.any() for parameter in model.initial_state.parameters()))
network.layer_idx = None
try:
    ContextState(network, torch.nn.Linear(2, 8))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_the_registration_is_right(layer):
    printed = fresh.run(CODE.format(layer=LAYERS[layer]), TRITON_INTERPRET="1").stdout.splitlines()
    assert printed[0] == "True"
    assert "expected" in printed[1]
    assert "layer_idx=..., under which its cache keeps the state, got None" in printed[1]
