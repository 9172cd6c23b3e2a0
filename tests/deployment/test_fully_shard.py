"""fully_shard (FSDP2) over two processes (gloo): every part sharded or the root alone, in float32 and bfloat16."""

import copy

import pytest
import torch
from tests.deployment.matrix import build, inputs_for
from tests.killed import ended, started
from tests.networks import tensors_of
from torch import distributed, nn

from contextual_rnn import (
    ContextState,
    ContextualRNN,
    LeafwiseState,
    NormalState,
    generate,
    save_state,
    state_spec,
    truncated,
)

try:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
except ImportError:
    pytest.skip("torch 2.6 is the first with fully_shard here", allow_module_level=True)

CASES = ["context lstm", "normal gru", "free lstm", "normal lstm cell", "free fast weights, dense A"]
SHARDED = {
    "every part": lambda model: [model.initial_state, model.network, model],
    "every module": lambda model: [part for part in reversed(list(model.modules())) if list(part.parameters())],
    "the root alone": lambda model: [model],
}
BFLOAT16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16)


class ByHand(nn.Module):
    def __init__(self, network, initial_state):
        super().__init__()
        self.network, self.initial_state = network, initial_state

    def forward(self, x, context):
        return self.network(x, self.initial_state(context))


def shard(model, how, policy):
    mesh = distributed.init_device_mesh("cpu", (2,))
    for part in SHARDED[how](model):
        if not isinstance(part, nn.ParameterDict | nn.ModuleDict):  # without a forward of their own
            fully_shard(part, mesh=mesh, mp_policy=policy)
    return model


def loss(outputs):
    return sum(tensor.float().square().mean() for tensor in tensors_of(outputs))


def densities(model, context):
    """All that a state is asked for beside its forward, with a draw that is the same everywhere."""
    state = model.initial_state
    drawn = state.sample(context, 2, generator=torch.Generator().manual_seed(0))
    results = tensors_of(drawn)
    if isinstance(state, NormalState):
        normal = next(iter(state.distribution(context).values()))
        value = tuple(t.detach() for t in drawn) if isinstance(drawn, tuple) else drawn.detach()
        repeated = context.repeat_interleave(2, 0)
        results += [state.kl(context), state.log_prob(value, repeated), normal.mean, normal.stddev]
    return results


def roll_out(model, context):
    first = torch.linspace(-1, 1, 12).view(4, 3)
    return generate(
        model,
        lambda output, value: value + output[..., :3].float(),
        first,
        num_steps=3,
        context=context,
        num_samples=2,
        generator=torch.Generator().manual_seed(1),
    )


def gradients(model, x, context, generator):
    model.zero_grad()
    total = loss(model(x, context=context, **generator)) + loss(densities(model, context))
    if isinstance(model.initial_state, NormalState):
        outputs, posterior = model(x, context=context, return_posterior=True, **generator)
        total = total + loss(outputs) + posterior.kl().mean()
    total.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in grads.items()}


def compare(rank, case, how):
    """In float32 all numbers are those of the model that is not sharded."""
    plain = build(case)
    x, context = inputs_for(plain, 4)
    sharded = shard(copy.deepcopy(plain), how, MixedPrecisionPolicy())
    close = {"rtol": 1e-5, "atol": 1e-6}
    with torch.no_grad():
        expected = densities(plain, context)
        torch.testing.assert_close(densities(sharded, context), expected, **close)  # no forward has run
    torch.testing.assert_close(roll_out(sharded, context), roll_out(plain, context), **close)
    if plain._spec.known_time_dim is not None:
        pieces = [[output for _, output, _ in truncated(m.eval(), x, 2, context=context)] for m in (plain, sharded)]
        torch.testing.assert_close(pieces[1], pieces[0], **close)
        plain.train(), sharded.train()
    with pytest.raises(ValueError, match="expected all of a tensor, got a shard of it"):
        save_state(sharded.initial_state, "/dev/null")
    halves = []
    for half in (slice(0, 2), slice(2, 4)):
        part = x[half] if getattr(plain.network, "batch_first", True) else x[:, half]
        halves.append((part, context[half]))
    wanted = [gradients(plain, *half, {"generator": torch.Generator().manual_seed(r)}) for r, half in enumerate(halves)]
    found = gradients(sharded, *halves[rank], {"generator": torch.Generator().manual_seed(rank)})
    for name, grad in found.items():
        torch.testing.assert_close(grad, (wanted[0][name] + wanted[1][name]) / 2, **close, msg=f"{case} {how} {name}")


def mixed(how):
    """In bfloat16 a ContextualRNN is what the same modules are by hand, and densities are float32."""
    lstm = nn.LSTM(3, 4)
    modules = lstm, NormalState(lstm, nn.Linear(2, 4))
    x, context = torch.randn(7, 5, 3), torch.randn(5, 2)
    outputs = []
    for kind in (ByHand, ContextualRNN):
        model = shard(kind(*copy.deepcopy(modules)).eval(), how, BFLOAT16)
        output, _ = model(x, context=context)
        loss(output).backward()
        outputs.append((output, *(parameter.grad.full_tensor() for parameter in model.network.parameters())))
    assert outputs[0][0].dtype == torch.bfloat16
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    model = shard(ContextualRNN(*copy.deepcopy(modules)), how, BFLOAT16)
    first = torch.zeros(5, 3)
    paths = generate(model, lambda output, value: value + output[..., :3], first, num_steps=2, context=context)
    assert paths.shape == (5, 1, 2, 3)
    assert paths.isfinite().all()
    for policy in (BFLOAT16, MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)):
        if how == "the root alone" or policy is BFLOAT16:
            pieces = shard(ContextualRNN(*copy.deepcopy(modules)), how, policy)
            for _, output, _ in truncated(pieces, x, 3, context=context):
                assert output.dtype == (policy.output_dtype or torch.bfloat16)
                loss(output).backward()
            assert all(parameter.grad is not None for parameter in pieces.network.parameters())
    assert model.initial_state.kl(context).dtype == torch.float32
    assert model.initial_state.sample(context)[0].dtype == torch.bfloat16


def nested():
    """States inside of a state are sharded by themselves."""
    lstm = nn.LSTM(3, 4)
    spec = state_spec(lstm)
    state = LeafwiseState(spec, h=NormalState(spec["h"], nn.Linear(2, 4)), c=ContextState(spec["c"], nn.Linear(2, 4)))
    plain = ContextualRNN(lstm, state)
    sharded = copy.deepcopy(plain)
    mesh = distributed.init_device_mesh("cpu", (2,))
    for part in (*sharded.initial_state.states.values(), sharded):
        fully_shard(part, mesh=mesh)
    context = torch.randn(4, 2)
    torch.testing.assert_close(densities(sharded, context), densities(plain, context))
    x = torch.randn(5, 4, 3)
    torch.testing.assert_close(sharded.eval()(x, context=context), plain.eval()(x, context=context))


def run(rank, store):
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for how in SHARDED:
        for case in CASES:
            torch.manual_seed(0)
            compare(rank, case, how)
        torch.manual_seed(0)
        mixed(how)
    nested()
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_sharded_models_are_the_models_that_they_were(tmp_path):
    processes = [started(run, rank, str(tmp_path / "store")) for rank in (0, 1)]
    assert [ended(process) for process in processes] == [0, 0]
