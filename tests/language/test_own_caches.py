"""Models of transformers with a cache class of their own: what ours does not touch is as before."""

import copy

import pytest
import torch
from tests.language.families import assert_beams_go_on, empty_cache, new_model, random_state, tokens
from transformers import DynamicCache

from contextual_rnn.language import InitialCache, initial_cache, language_model_spec


@pytest.fixture(params=["MiniMax", "xLSTM"])
def model(request):
    return new_model(request.param)


@torch.no_grad()
def test_calls_without_a_state_of_ours_are_as_before(model):
    ids, plain = tokens(), copy.deepcopy(model)
    options = {"max_new_tokens": 3, "do_sample": False}
    wanted, generated, refusals = plain(ids, use_cache=True), plain.generate(ids, **options), []
    language_model_spec(model)
    output = model(ids, use_cache=True)
    assert torch.equal(output.logits, wanted.logits)
    assert type(output.cache) is type(empty_cache(model))
    again = [each(ids, cache=one.cache).logits for each, one in ((model, output), (plain, wanted))]
    assert torch.equal(*again)
    assert torch.equal(model.generate(ids, **options), generated)
    for each in (model, plain):
        with pytest.raises((ValueError, AttributeError)) as refusal:
            each(ids, cache=DynamicCache(config=model.config), use_cache=True)
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1], "a cache of a class that the model does not know"


@torch.no_grad()
def test_a_call_returns_our_cache_which_goes_on(model):
    ids, state = tokens(), random_state(language_model_spec(model))
    cache = initial_cache(model, state)
    output = model(ids, cache=cache)
    assert output.cache is cache
    assert isinstance(model.base_model(ids, cache=initial_cache(model, state), return_dict=False)[1], InitialCache)
    first = output.logits
    assert (model(ids, cache=cache).logits - first).abs().max() > 0.01
    cache.reset()
    assert torch.equal(model(ids, cache=cache).logits, first)


@torch.no_grad()
def test_beams_go_on_from_their_own_states(model):
    assert_beams_go_on(model)


def test_gradients_reach_a_state_over_two_calls(model):
    ids = tokens()
    state = {name: tensor.requires_grad_() for name, tensor in random_state(language_model_spec(model)).items()}

    def gradients(*parts):
        cache = initial_cache(model, state)
        logits = torch.cat([model(part, cache=cache).logits for part in parts], 1)
        return torch.autograd.grad(logits.square().sum(), list(state.values()))

    for whole, halves in zip(gradients(ids), gradients(ids[:, :3], ids[:, 3:]), strict=True):
        torch.testing.assert_close(halves, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
