"""Every family: a whole run equals single tokens, gradients equal differences, nothing of the caller's is changed."""

import inspect

import pytest
import torch
from tests.language.families import FAMILIES, empty_cache, model_of, new_model, random_state, tokens

from contextual_rnn import ContextState, FreeState, NormalState, SumState
from contextual_rnn.language import ContextualLanguageModel, initial_cache, language_model_spec
from contextual_rnn.serialization import load_state, save_state


@pytest.fixture(params=FAMILIES)
def model(request):
    return model_of(request.param)


def token_by_token(model, ids, cache):
    outputs = []
    for place, token in enumerate(ids.split(1, 1)):
        counted = "position_ids" in inspect.signature(model.forward).parameters
        more = {"position_ids": torch.full_like(token, place)} if counted else {}
        outputs.append(model(token, cache=cache, use_cache=True, **more).logits)
    return torch.cat(outputs, 1)


def largest(tensor):
    return tensor.abs().max().item()


@torch.no_grad()
def test_a_whole_run_equals_single_tokens_from_a_random_state(model):
    ids, state = tokens(), random_state(language_model_spec(model, convolutions=True))
    before = {name: tensor.clone() for name, tensor in state.items()}
    plain = model(ids).logits
    own = largest(plain - token_by_token(model, ids, empty_cache(model)))
    whole = model(ids, cache=initial_cache(model, state)).logits
    steps = token_by_token(model, ids, initial_cache(model, state))
    in_two = initial_cache(model, state)
    first, second = (model(part, cache=in_two, use_cache=True).logits for part in (ids[:, :3], ids[:, 3:]))
    assert largest(whole - plain) > 1e3 * max(own, 1e-7), "the state changes what the model says"
    assert largest(whole - steps) <= 10 * max(own, 1e-7 * largest(whole))
    torch.testing.assert_close(whole[:, :3], first, rtol=1e-4, atol=1e-5)
    if "Bamba" not in type(model).__name__:  # which counts positions anew with each call
        torch.testing.assert_close(whole[:, 3:], second, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items()), "the caller's state is unchanged"


def test_gradients_of_every_leaf_equal_differences(model):
    ids, state = tokens(), random_state(language_model_spec(model, convolutions=True))
    generator = torch.Generator().manual_seed(2)
    cotangent = torch.randn(2, 7, 64, generator=generator)
    leaves = {name: tensor.requires_grad_() for name, tensor in state.items()}

    def value(state):
        return (model(ids, cache=initial_cache(model, state)).logits * cotangent).double().sum()

    gradients = dict(zip(leaves, torch.autograd.grad(value(leaves), list(leaves.values())), strict=True))
    rounding = 1e-7 * model(ids).logits.norm()
    with torch.no_grad():
        for name, gradient in gradients.items():
            noise = torch.randn(gradient.shape, generator=generator)
            direction = gradient / gradient.norm() + noise / noise.norm()
            step = 2000 * rounding / gradient.norm()  # a longer one is not straight
            ahead, behind = (value({**state, name: state[name] + sign * step * direction}) for sign in (1, -1))
            difference = (ahead - behind) / (2 * step)
            torch.testing.assert_close((gradient * direction).sum().double(), difference, rtol=0.02, atol=0.0)


@torch.no_grad()
@pytest.mark.parametrize("length", [3, 70])  # shorter than a convolution reads, and of several chunks
def test_zeros_are_the_model_itself(model, length):
    ids, state = tokens(length=length), FreeState(language_model_spec(model))(batch_size=2)
    logits = model(ids, cache=initial_cache(model, state)).logits
    if "MiniMax" in type(model).__name__:  # from a state it sums token by token, without one in blocks
        torch.testing.assert_close(logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(logits, model(ids).logits)


@torch.no_grad()
def test_rows_of_one_batch_begin_from_different_states(model):
    ids, state = tokens(3), random_state(language_model_spec(model), 3)
    together = model(ids, cache=initial_cache(model, state)).logits
    for row in range(3):
        alone = {name: tensor[row : row + 1] for name, tensor in state.items()}
        logits = model(ids[row : row + 1], cache=initial_cache(model, alone)).logits
        torch.testing.assert_close(logits[0], together[row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_generate_equals_a_loop(model):
    ids, state = tokens(), random_state(language_model_spec(model))
    generated = model.generate(
        ids,
        cache=initial_cache(model, state),
        max_new_tokens=4,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    sequence = ids
    for logits in generated.logits:
        whole = model(sequence, cache=initial_cache(model, state)).logits[:, -1]
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
        sequence = torch.cat([sequence, whole.argmax(-1, keepdim=True)], 1)
    assert torch.equal(generated.sequences, sequence)


def test_a_state_is_trained_and_the_weights_stay(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = tokens(4, 9)
    tuned = ContextualLanguageModel(model, FreeState(language_model_spec(model, convolutions=True))).train()
    optimizer = torch.optim.Adam(tuned.initial_state.parameters(), 0.03)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = tuned(ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        assert all(parameter.grad.any() for parameter in tuned.initial_state.parameters())
        optimizer.step()
    assert losses[-1] < losses[0]
    model.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", ["Qwen3_5", "Mamba2", "Mamba"])
def test_contexts_distributions_sums_and_files(family, tmp_path):
    model = model_of(family)
    spec, ids = language_model_spec(model), tokens(3)
    net = torch.nn.Linear(2, 4)
    states = [
        ContextState(spec, net, zero_init=True),
        NormalState(spec, net, scale=0.3),
        SumState([FreeState(spec, value=0.1), FreeState(spec, value=0.5)], [0.3, 0.7]),
    ]
    for state in states:
        tuned = ContextualLanguageModel(model, state).train()
        context = torch.randn(3, 2) if state.reads_context else None
        tuned(ids, context=context, labels=ids).loss.backward()
        assert all(parameter.grad is not None for parameter in state.parameters())
        model.eval()
    state = FreeState(spec, value=random_state(spec, 1) and {n: t[0] for n, t in random_state(spec, 1).items()})
    save_state(state, tmp_path / "style")
    other = FreeState(spec)
    load_state(other, tmp_path / "style")
    outputs = [ContextualLanguageModel(model, each).eval()(ids).logits for each in (state, other)]
    assert torch.equal(*outputs)


def test_files_are_hardly_larger_than_their_numbers(tmp_path):
    model = new_model("Mamba2", head_dim=16, num_heads=4, state_size=32, num_hidden_layers=8)
    state = FreeState(language_model_spec(model))
    save_state(state, tmp_path / "style")
    numbers = sum(4 * parameter.numel() for parameter in state.parameters())
    assert numbers == 64 * 1024
    assert (tmp_path / "style").stat().st_size < 1.2 * numbers
