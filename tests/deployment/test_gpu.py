"""A GPU where there is one: the numbers of the CPU, every state and network."""

import pytest
import torch
from tests.deployment.matrix import CASES, build, inputs_for
from tests.networks import tensors_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_of_the_cpu(case):
    model = build(case).eval()
    model.network.train()  # cuDNN goes back in this mode alone; no network here has dropout
    x, context = inputs_for(model, 3)
    wanted = tensors_of(model(x, context=context))
    cotangents = [torch.randn_like(tensor) for tensor in wanted]
    parameters = [parameter for name, parameter in model.named_parameters() if "raw_scale" not in name]
    gradients = torch.autograd.grad(wanted, parameters, cotangents)
    model.cuda()  # in place, the parameters included
    found = tensors_of(model(x.cuda(), context=context.cuda()))
    back = torch.autograd.grad(found, parameters, [tensor.cuda() for tensor in cotangents])
    # cuDNN may multiply in TF32, of ten bits.
    for tensor, full in zip([*found, *back], [*wanted, *gradients], strict=True):
        torch.testing.assert_close(tensor.cpu(), full, rtol=1e-2, atol=5e-3)
