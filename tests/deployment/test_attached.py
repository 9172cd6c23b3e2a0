"""An attached state over two processes (gloo), by DDP and fully_shard: the gradients are those of the whole batch."""

import copy

import pytest
import torch
from tests.deployment.attached import CASES, WAYS, Host, attached, halves_of, loss_of, run
from tests.deployment.matrix import build, inputs_for
from tests.killed import ended, started
from tests.networks import tensors_of
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from contextual_rnn import ContextState, FreeState, attach, given_context

STEPS = 2  # DistributedDataParallel reports a parameter without a gradient in the next step
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def gradients(model, state, way, x, context, seed):
    """By name, and whole where they are shards; `model` may be wrapped."""
    model.zero_grad()
    loss_of(model, state, way, x, context, seed).backward()
    grads = {name.removeprefix("module."): parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in grads.items()}


def assert_of_the_whole_batch(rank, case, way, parallelise):
    """The gradients of both processes are the mean of those of the halves, without processes."""
    plain = attached(case, way)
    halves = halves_of(plain, *inputs_for(plain, 4))
    state = plain.network.initial_state
    wanted = [gradients(plain, state, way, *half, seed) for seed, half in enumerate(halves)]
    parallel = parallelise(copy.deepcopy(plain))
    state = getattr(parallel, "module", parallel).network.initial_state
    assert any("initial_state" in name for name in wanted[0])
    for _ in range(STEPS):
        found = gradients(parallel, state, way, *halves[rank], rank)
        assert found.keys() == wanted[0].keys()
        for name, grad in found.items():
            mean = (wanted[0][name] + wanted[1][name]) / 2
            torch.testing.assert_close(grad, mean, **CLOSE, msg=lambda m, n=name: f"{case}, {way}, {n}: {m}")


def in_processes(target, tmp_path):
    processes = [started(target, rank, str(tmp_path / "store")) for rank in (0, 1)]
    assert [ended(process) for process in processes] == [0, 0]


def begin(rank, store):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def by_data_parallel(rank, store):
    begin(rank, store)
    for case in CASES:
        for way in WAYS:
            assert_of_the_whole_batch(rank, case, way, DistributedDataParallel)
    refused_when_late()
    looked_at_once()
    where_a_state_is_given()
    distributed.destroy_process_group()


def refused_when_late():
    """A state that DistributedDataParallel does not know would have gradients of its own process alone."""
    lstm = nn.LSTM(3, 5, batch_first=True)
    parallel, x = DistributedDataParallel(Host(lstm)), torch.randn(2, 4, 3)
    parallel(x)
    attach(lstm, FreeState(lstm))
    expected = "initial_state: expected it to be attached to LSTM before DistributedDataParallel is made"
    names = "network.initial_state.values.c, network.initial_state.values.h"
    with pytest.raises(ValueError, match=f"{expected}, got .* with gradients of this process alone: {names}"):
        parallel(x)
    parallel.module(x)  # outside it is a model of one process
    lstm.initial_state.requires_grad_(False)
    parallel(x)
    lstm.initial_state.requires_grad_(True)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        parallel.module, [f"network.initial_state.values.{leaf}" for leaf in "hc"]
    )
    DistributedDataParallel(parallel.module)(x)  # which the user asked for


class Counted(list):
    looks = 0

    def __iter__(self):
        self.looks += 1
        return super().__iter__()


def looked_at_once():
    """The parameters of a whole model, not for each of its networks and in each of their calls."""
    networks = [nn.GRU(3, 3) for _ in range(4)]
    for network in networks:
        attach(network, FreeState(network))
    parallel = DistributedDataParallel(nn.Sequential(*(Host(nn.Sequential(network, First())) for network in networks)))
    parallel(torch.randn(2, 4, 3))
    parallel._module_parameters = counted = Counted(parallel._module_parameters)
    parallel(torch.randn(2, 4, 3))
    assert counted.looks == 0


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


def where_a_state_is_given():
    """The initial state has no gradient there, which DistributedDataParallel refuses or is asked to allow."""
    for allowed in (True, False):
        model = attached("context lstm", "given_context")
        x, context = inputs_for(model, 2)
        parallel = DistributedDataParallel(model, find_unused_parameters=allowed)
        hx = tuple(torch.randn(1, 2, 5) for _ in range(2))
        with given_context(context):
            tensors_of(parallel(x, hx=hx))[0].sum().backward()
            if allowed:
                parallel(x, hx=hx)
                continue
            with pytest.raises(RuntimeError, match="find_unused_parameters=True"):
                parallel(x, hx=hx)


def test_data_parallel(tmp_path):
    in_processes(by_data_parallel, tmp_path)


fsdp = pytest.importorskip("torch.distributed.fsdp")
if not hasattr(fsdp, "fully_shard"):
    pytest.skip("torch 2.6 is the first with fully_shard here", allow_module_level=True)
SHARDED = {
    "every part": lambda model: [model.network.initial_state, model.network, model],
    "the network and the model": lambda model: [model.network, model],
    "every module": lambda model: [part for part in reversed(list(model.modules())) if list(part.parameters())],
    "the root alone": lambda model: [model],
}
BFLOAT16 = fsdp.MixedPrecisionPolicy(param_dtype=torch.bfloat16)


class ByHand(nn.Module):
    """A model that gives its network the state itself."""

    def __init__(self, network, initial_state):
        super().__init__()
        self.network = network
        network.initial_state = initial_state

    def forward(self, x, static=None):
        return self.network(x, self.network.initial_state(static))


def shard(model, how, **policy):
    mesh = distributed.init_device_mesh("cpu", (2,))
    for part in SHARDED[how](model):
        if not isinstance(part, nn.ParameterDict | nn.ModuleDict):  # without a forward of their own
            fsdp.fully_shard(part, mesh=mesh, **policy)
    return model


def by_fully_shard(rank, store):
    begin(rank, store)
    for how in SHARDED:
        for case in CASES:
            for way in WAYS:
                assert_of_the_whole_batch(rank, case, way, lambda model, how=how: shard(model, how))
        in_bfloat16(how)
    refused_when_sharded()
    distributed.destroy_process_group()


def in_bfloat16(how):
    """As a model that gives its network the state itself."""
    parts = build("context lstm")
    x, context = inputs_for(parts, 4)
    by_hand = ByHand(*copy.deepcopy((parts.network, parts.initial_state)))
    by_hand = shard(by_hand, "the root alone", mp_policy=BFLOAT16)  # it calls the state outside of its network
    model = shard(attached("context lstm", WAYS[1]), how, mp_policy=BFLOAT16)
    outputs = [tensors_of(each(x, context)) for each in (model, by_hand)]
    assert outputs[0][0].dtype == torch.bfloat16
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)


def refused_when_sharded():
    lstm = nn.LSTM(3, 5)
    state = ContextState(lstm, nn.Linear(2, 4))
    fsdp.fully_shard(lstm, mesh=distributed.init_device_mesh("cpu", (2,)))
    message = "network: expected one that fully_shard has not sharded yet, got FSDPLSTM with sharded parameters: attach"
    with pytest.raises(ValueError, match=message):
        attach(lstm, state)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_fully_shard(tmp_path):
    in_processes(by_fully_shard, tmp_path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_the_models_compute_what_a_contextual_rnn_does(case, way):
    parts = build(case)
    x, context = inputs_for(parts, 4)
    torch.manual_seed(3)
    wanted = tensors_of(parts(x, context=context))
    assert all(map(torch.equal, tensors_of(run(attached(case, way), way, x, context, 3)), wanted))
