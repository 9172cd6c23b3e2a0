"""RWKV-7 of rwkv7-hf: what it computes from a state by hand, and its own caches and calls, which stay as they were."""

import copy

import pytest
import torch
from tests.language.families import assert_beams_go_on, new_model, random_state, tokens
from tests.pages import ROOT, blocks

from contextual_rnn import FreeState
from contextual_rnn.language import InitialCache, initial_cache, language_model_spec

rwkv7 = pytest.importorskip("rwkv7_hf", reason="comes with `make integrations`")


@pytest.fixture
def model():
    return new_model("RWKV7")


@torch.no_grad()
def test_the_state_is_that_of_its_own_cache(model):
    ids, state = tokens(), random_state(language_model_spec(model, convolutions=True))
    tensors = [[state[f"layer{n}{kind}"] for n in range(2)] for kind in ("", "_convolution", "_convolution_1")]
    own = rwkv7.RWKV7Cache(tensors[0], *([shift[..., 0] for shift in shifts] for shifts in tensors[1:]))
    wanted = model(ids, past_key_values=own).logits
    cache = initial_cache(model, state)
    output = model(ids, cache=cache)
    assert torch.equal(output.logits, wanted)
    assert output.cache is cache
    for number, (matrix, attention, feed_forward) in enumerate(own):
        assert torch.equal(cache.layers[number].recurrent_states[0], matrix)
        assert torch.equal(cache.layers[number].conv_states[0][..., 0], attention)
        assert torch.equal(cache.layers[number].conv_states[1][..., 0], feed_forward)
    assert torch.equal(model(ids, past_key_values=cache).logits, model(ids, past_key_values=own).logits)
    assert isinstance(model.model(ids, cache=initial_cache(model, state), return_dict=False)[1], InitialCache)


@torch.no_grad()
def test_calls_without_a_state_of_ours_are_as_before(model):
    ids, plain = tokens(), copy.deepcopy(model)
    wanted, generated = plain(ids), plain.generate(ids, max_new_tokens=3, do_sample=False)
    language_model_spec(model)
    output = model(ids)
    assert torch.equal(output.logits, wanted.logits)
    assert type(output.cache) is rwkv7.RWKV7Cache
    assert torch.equal(
        model(ids[:, :1], past_key_values=output.cache).logits, plain(ids[:, :1], past_key_values=wanted.cache).logits
    )
    assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), generated)
    with pytest.raises(TypeError, match="RWKV7Cache"):
        model(ids, past_key_values=[1])


@torch.no_grad()
def test_beams_go_on_from_their_own_states(model):
    assert_beams_go_on(model)


@torch.no_grad()
def test_a_model_around_a_known_decoder_generates_too(model, monkeypatch):
    prepare = type(model).prepare_inputs_for_generation
    monkeypatch.setattr(type(model), "prepare_inputs_for_generation", getattr(prepare, "original", prepare))
    ids, state = tokens(), random_state(language_model_spec(model.model))
    options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    logits = model.generate(ids, cache=initial_cache(model, state), **options).logits[0]
    torch.testing.assert_close(logits, model(ids, cache=initial_cache(model, state)).logits[:, -1])


@torch.no_grad()
def test_generation_from_embeddings(model):
    ids, state = tokens(), random_state(language_model_spec(model))
    options = {"max_new_tokens": 3, "do_sample": False}
    wanted = model.generate(ids, cache=initial_cache(model, state), **options)[:, 7:]
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeddings, cache=initial_cache(model, state), **options), wanted)


@torch.no_grad()
def test_half_precision(model):
    ids, state = tokens(), random_state(language_model_spec(model))
    effect = model(ids, cache=initial_cache(model, state)).logits - model(ids).logits
    model = model.bfloat16()
    spec = language_model_spec(model, convolutions=True)
    assert [leaf.dtype for leaf in spec][:3] == [torch.float32, torch.bfloat16, torch.bfloat16]
    difference = model(ids, cache=initial_cache(model, state)).logits - model(ids).logits
    assert torch.corrcoef(torch.stack([effect.flatten(), difference.float().flatten()]))[0, 1] > 0.9


def test_the_code_of_the_page(model, tmp_path):
    page, ids = ROOT / "docs" / "coming-from" / "rwkv.md", tokens()
    (code,) = blocks(page, "py")
    model.save_pretrained(tmp_path)
    scope = {"FreeState": FreeState, "path": tmp_path, "ids": ids, "prompt": ids[:1]}
    exec(compile(code, str(page), "exec"), scope)
    assert torch.equal(scope["model"].lm_head.weight, model.lm_head.weight)
    torch.testing.assert_close(scope["loss"], model(ids, labels=ids).loss)  # a state that starts at zero
    scope["loss"].backward()
    assert all(value.grad.any() for value in scope["state"].parameters())
    assert scope["text"].shape == (1, 107)
