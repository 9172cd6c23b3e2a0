"""Eager, autocast and torch.func: the same numbers by every way of calling."""

import copy

import pytest
import torch
from tests.deployment.matrix import CASES, CELLS, FAST_WEIGHTS, STATES, TORCH, build, inputs_for
from tests.networks import skip_without_bfloat16, tensors_of
from torch.func import functional_call, grad, stack_module_state, vmap


@pytest.mark.parametrize("case", CASES)
def test_eager_runs_the_network_from_the_state(case):
    model = build(case).eval()
    x, context = inputs_for(model, 3)
    found, wanted = model(x, context=context), model.network(x, model.initial_state(context, 3))
    assert all(map(torch.equal, tensors_of(found), tensors_of(wanted)))
    sum((tensor * torch.randn_like(tensor)).sum() for tensor in tensors_of(found)).backward()
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # Evaluation takes the mean.
    assert all("raw_scale" in name for name in untouched)


@pytest.mark.parametrize("case", CASES)
def test_autocast_to_bfloat16(case):
    """Eight bits of mantissa: relative steps of 1/256, here through 4 steps of networks whose values are near 1.

    Fast weights keep float32 inside, and a layer norm may enlarge what the bfloat16 projection lost.
    """
    model = build(case).eval()
    x, context = inputs_for(model, 3)
    wanted = model(x, context=context)
    skip_without_bfloat16(model.network, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, context=context)
    for tensor, full in zip(tensors_of(found), tensors_of(wanted), strict=True):
        torch.testing.assert_close(tensor.float(), full, rtol=0.06, atol=0.06)
    sum(tensor.float().square().sum() for tensor in tensors_of(found)).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("case", CASES)
def test_functional_call_takes_other_parameters(case):
    model = build(case).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    x, context = inputs_for(model, 3)
    found = functional_call(model, other.state_dict(), (x,), {"context": context})
    wanted = other(x, context=context)
    for tensor, full in zip(tensors_of(found), tensors_of(wanted), strict=True):
        torch.testing.assert_close(tensor, full)
    assert not torch.equal(tensors_of(wanted)[0], tensors_of(model(x, context=context))[0])


@pytest.mark.parametrize("case", [f"{state} {network}" for state in STATES for network in TORCH + CELLS + FAST_WEIGHTS])
def test_ensemble_under_vmap(case):
    """Three members at once, values and gradients, equal to one after the other."""
    models = [build(case).eval() for _ in range(3)]
    for model in models:
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
    stacked, buffers = stack_module_state(models)
    x, context = inputs_for(models[0], 3)

    def loss(parameters, buffers):
        state = functional_call(models[0], (parameters, buffers), (x,), {"context": context})
        return sum(tensor.square().sum() for tensor in tensors_of(state))

    gradients = vmap(grad(loss))(stacked, buffers)
    for index, model in enumerate(models):
        sum(tensor.square().sum() for tensor in tensors_of(model(x, context=context))).backward()
        for name, parameter in model.named_parameters():
            wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradients[name][index], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", TORCH + CELLS + FAST_WEIGHTS)
def test_ensemble_is_evaluated_under_vmap(network):
    """torch has no rule for four of its kernels: with derivatives it has, and our kernel serves three."""
    model = build(f"context {network}").eval()
    stacked = {name: torch.stack([value, 0.5 * value]).detach() for name, value in model.named_parameters()}
    x, context = inputs_for(model, 3)

    def outputs(parameters, **options):
        return tensors_of(functional_call(model, parameters, (x,), {"context": context, **options}))[0]

    def outputs_with_gradients(parameters):
        return grad(lambda p: (lambda y: (y.sum(), y))(outputs(p)), has_aux=True)(parameters)[1]

    found = [vmap(outputs_with_gradients)(stacked)]
    if network in [*TORCH, "lstm cell"]:
        with pytest.raises(RuntimeError, match="Batching rule not implemented"):
            vmap(outputs)(stacked)
    else:
        found.append(vmap(outputs)(stacked))
    if network in TORCH:
        steps = x.shape[1 if model.network.batch_first else 0]
        found.append(vmap(lambda p: outputs(p, lengths=torch.full((3,), steps)))(stacked))
        model.backend = "native"
        found.append(vmap(outputs)(stacked))
        model.backend = "auto"
    wanted = torch.stack([outputs({name: value[i] for name, value in stacked.items()}) for i in range(2)])
    for values in found:
        torch.testing.assert_close(values, wanted)


def test_draws_under_vmap_differ_where_asked():
    state = build("normal lstm").initial_state.train()
    context = torch.randn(3, 2)
    draws = {kind: vmap(lambda _: state(context)[0], randomness=kind)(torch.zeros(2)) for kind in ("different", "same")}
    assert not torch.equal(*draws["different"])
    assert torch.equal(*draws["same"])


@pytest.mark.parametrize("network", [*TORCH, "lstm cell"])
def test_torch_refuses_vmap_over_inputs_alone(network):
    """torch.nn's recurrent kernels need their weights stacked too, as an ensemble has them; or a larger batch."""
    model = build(f"context {network}").eval()
    x, context = inputs_for(model, 3)
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):
        vmap(lambda x: tensors_of(model(x, context=context))[0])(torch.stack([x, x]))


@pytest.mark.parametrize("network", ["rnn cell", "gru cell", "fast weights cell", *FAST_WEIGHTS])
def test_vmap_over_inputs_alone(network):
    model = build(f"context {network}").eval()
    x, context = inputs_for(model, 3)
    x = torch.stack([x, torch.randn_like(x)])
    found = vmap(lambda x: tensors_of(model(x, context=context))[0])(x)
    for one, wanted in zip(x, found, strict=True):
        torch.testing.assert_close(tensors_of(model(one, context=context))[0], wanted)
