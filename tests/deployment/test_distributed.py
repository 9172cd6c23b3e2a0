"""DistributedDataParallel over two processes (gloo): gradients of the whole batch, and no parameter left waiting."""

import copy

import pytest
import torch
from tests.deployment.matrix import FAST_WEIGHTS, STATES, build, inputs_for
from tests.killed import ended, started
from tests.networks import tensors_of
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

POSTERIOR = "normal lstm, with the KL of its posterior"
CASES = [*(f"{state} lstm" for state in STATES), *(f"context {name}" for name in ["gru", "rnn cell", *FAST_WEIGHTS])]
CASES.append(POSTERIOR)
STEPS = 3  # a parameter that took no part is reported by the next step


def loss(outputs):
    return sum(tensor.square().mean() for tensor in tensors_of(outputs))


def build_case(case):
    return build(case.partition(",")[0] if case == POSTERIOR else case)


def loss_of(case, model, x, context, generator):
    if case != POSTERIOR:
        return loss(model(x, context=context, generator=generator))
    outputs, posterior = model(x, context=context, generator=generator, return_posterior=True)
    return loss(outputs) + posterior.kl().mean()


def train(rank, store, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    gradients = {}
    for case in CASES:
        model = build_case(case)  # random where the state is, with a generator below so that both ways draw alike
        parallel = DistributedDataParallel(copy.deepcopy(model))
        x, context = inputs_for(model, 4)
        half = slice(2 * rank, 2 * rank + 2)
        batch = model.network.batch_first if hasattr(model.network, "batch_first") else True
        part = x[half] if batch else x[:, half]
        for _ in range(STEPS):
            parallel.zero_grad()
            generator = torch.Generator().manual_seed(rank)
            loss_of(case, parallel, part, context[half], generator).backward()
        gradients[case] = {name: parameter.grad for name, parameter in parallel.module.named_parameters()}
    del parallel  # before its group: freed last, it holds Python's lock and joins threads of gloo that may wait for it
    carried(gradients)
    torch.save(gradients, f"{results}/{rank}.pt")
    distributed.destroy_process_group()


def carried(gradients):
    """A state that is carried leaves the initial state without a gradient, which DDP must know."""
    model = build("context lstm")
    x, context = inputs_for(model, 2)
    plain = DistributedDataParallel(copy.deepcopy(model))
    told = DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=True)
    for parallel in (plain, told):
        hx = None
        try:
            for _ in range(STEPS):
                output, hx = parallel(x, hx, context=context)
                loss(output).backward()
                hx = tuple(leaf.detach() for leaf in hx)
        except RuntimeError as error:
            gradients["refused" if parallel is plain else "failed"] = str(error)


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    processes = [started(train, rank, str(folder / "store"), str(folder)) for rank in (0, 1)]
    assert [ended(process) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_whole_batch(case, gradients):
    model = build_case(case)
    x, context = inputs_for(model, 4)
    halves = []
    for rank in (0, 1):
        half = slice(2 * rank, 2 * rank + 2)
        part = x[half] if getattr(model.network, "batch_first", True) else x[:, half]
        generator = torch.Generator().manual_seed(rank)
        halves.append(loss_of(case, model, part, context[half], generator))
    (sum(halves) / 2).backward()
    for name, parameter in model.named_parameters():
        for found in gradients:
            torch.testing.assert_close(found[case][name], parameter.grad, rtol=1e-5, atol=1e-6)


def test_a_carried_state_needs_find_unused_parameters(gradients):
    for found in gradients:
        assert "find_unused_parameters=True" in found["refused"]
        assert "failed" not in found
