"""What would be answered with wrong numbers, without a word, is refused by name.

The first half of a test shows the trap: what transformers says without the refusal.
"""

import copy

import pytest
import torch
import transformers
from tests.language.families import model_of, new_model, random_state, tokens
from transformers.models.qwen3_5 import modeling_qwen3_5

from contextual_rnn import FreeState
from contextual_rnn.language import ContextualLanguageModel, initial_cache, language_model_spec
from contextual_rnn.language import calls as calls_module
from contextual_rnn.language import spec as spec_module

FAMILIES = ["Qwen3_5", "Mamba2", "Mamba"]


@pytest.fixture(params=FAMILIES)
def model(request):
    return model_of(request.param)


@pytest.fixture
def unchecked(monkeypatch):
    """Calls run as if nothing were refused."""

    def run(model, ids, cache, **arguments):
        with monkeypatch.context() as patch:
            for name in ("_check_mask", "_check_positions"):
                patch.setattr(calls_module, name, lambda *_: None)
            patch.setattr(calls_module, "_checkpointed", lambda _: False)
            return model(ids, cache=cache, **arguments).logits

    return run


def start(model, rows=2):
    return random_state(language_model_spec(model), rows)


def test_gradient_checkpointing(model, unchecked):
    model = copy.deepcopy(model).train()
    state = {name: tensor.requires_grad_() for name, tensor in start(model).items()}
    model.activation_checkpointing_enable()
    logits = unchecked(model, tokens(), initial_cache(model, state))
    gradients = torch.autograd.grad(logits.sum(), list(state.values()), allow_unused=True)
    assert all(gradient is None for gradient in gradients), "the state is dropped"
    with pytest.raises(ValueError, match=r"model: expected .* without gradient checkpointing"):
        model(tokens(), cache=initial_cache(model, state))
    with torch.no_grad():  # where it is not active
        model(tokens(), cache=initial_cache(model, state))
    model.eval()(tokens(), cache=initial_cache(model, state)).logits.sum().backward()
    assert all(tensor.grad.any() for tensor in state.values())


@torch.no_grad()
def test_padding_before_a_token(model, unchecked):
    ids, state, mask = tokens(), start(model), torch.ones(2, 7, dtype=torch.long)
    alone = model(ids[1:, 3:], cache=initial_cache(model, {name: tensor[1:] for name, tensor in state.items()})).logits
    mask[1, :3] = 0
    padded = unchecked(model, ids, initial_cache(model, state), attention_mask=mask)
    assert (padded[1, 3:] - alone[0]).abs().max() > 0.01, "the state decays in the padding"
    for bad in (mask, mask.bool(), mask.flip(0)):
        with pytest.raises(ValueError, match="attention_mask: expected padding after the tokens only"):
            model(ids, cache=initial_cache(model, state), attention_mask=bad)
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 1], [1] * 7])
    with pytest.raises(ValueError, match="attention_mask: expected padding after the tokens only"):
        model(ids, cache=initial_cache(model, state), attention_mask=mask)
    with pytest.raises(ValueError, match="attention_mask: expected None or"):
        model(ids, cache=initial_cache(model, state), attention_mask=torch.ones(2, 1, 7, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="attention_mask: expected padding after"):
        model.generate(ids, cache=initial_cache(model, state), attention_mask=mask, max_new_tokens=2)


@torch.no_grad()
def test_padding_after_the_tokens_changes_nothing_before_it(model):
    ids, state, mask = tokens(), start(model), torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    logits = model(ids, cache=initial_cache(model, state), attention_mask=mask).logits
    alone = model(ids[1:, :4], cache=initial_cache(model, {name: tensor[1:] for name, tensor in state.items()})).logits
    torch.testing.assert_close(logits[1, :4], alone[0], rtol=1e-4, atol=1e-5)
    cache = initial_cache(model, state)
    model(ids, cache=cache, attention_mask=mask)
    with pytest.raises(ValueError, match="cache: expected rows without padding at the end"):
        model(ids[:, :1], cache=cache)


@torch.no_grad()
def test_packed_rows(unchecked):
    model = model_of("Qwen3_5")
    ids, state = tokens(), start(model)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * 2)
    packed = unchecked(model, ids, initial_cache(model, state), position_ids=positions)
    second = model(ids[:, 3:], cache=initial_cache(model, state)).logits
    assert (packed[:, 3:] - second).abs().max() > 0.01, "the second sequence does not begin from the state"
    with pytest.raises(ValueError, match="position_ids: expected one sequence a row"):
        model(ids, cache=initial_cache(model, state), position_ids=positions)
    model(ids, cache=initial_cache(model, state), position_ids=torch.arange(7).expand(2, 7))
    with pytest.raises(ValueError, match="cu_seq_lens_q: expected None, as packed"):
        model(ids, cache=initial_cache(model, state), cu_seq_lens_q=torch.tensor([0, 3, 7]))


@torch.no_grad()
def test_another_model(model):
    other = copy.deepcopy(model)  # with the check of calls if another test began from a state before this one
    state = start(model)
    checked = copy.deepcopy(model)
    initial_cache(checked, state)
    new = transformers.AutoModelForCausalLM.from_config(model.config)
    for another in (other, checked, new):
        with pytest.raises(ValueError, match="cache: expected the model for which initial_cache made it, got another"):
            another(tokens(), cache=initial_cache(model, state))
    other(tokens(), cache=initial_cache(other, state))
    with pytest.raises(TypeError, match="state: expected"):
        initial_cache(model, {"layer9": next(iter(state.values()))})
    with pytest.raises(ValueError, match="state: expected leaf 'layer0' of shape"):
        initial_cache(model, {name: tensor[:, :1] for name, tensor in state.items()})
    spec = language_model_spec(new_model("Mamba2", state_size=16))
    with pytest.raises(ValueError, match="initial_state: expected one for"):
        ContextualLanguageModel(model, FreeState(spec))
    with pytest.raises(TypeError, match="initial_state: expected an InitialState, got Linear"):
        ContextualLanguageModel(model, torch.nn.Linear(1, 1))


@torch.no_grad()
def test_rows_dtypes_and_options(model):
    state = start(model)
    with pytest.raises(ValueError, match="input_ids: expected 2 rows, as the state has, got 3"):
        model(tokens(3), cache=initial_cache(model, state))
    with pytest.raises(ValueError, match="use_cache: expected True or None"):
        model.generate(tokens(), cache=initial_cache(model, state), use_cache=False, max_new_tokens=2)
    with pytest.raises(TypeError, match=r"state: expected 'layer0' of torch.float32.*got torch.float64"):
        initial_cache(model, {name: tensor.double() for name, tensor in state.items()})
    with pytest.raises(ValueError, match="state: expected a row for each sequence"):
        initial_cache(model, {name: tensor[0] for name, tensor in state.items()})
    with pytest.raises(TypeError, match="convolutions: expected True or False"):
        language_model_spec(model, convolutions="no")
    with pytest.raises(ValueError, match="tolerance: expected a positive number"):
        language_model_spec(model, tolerance=0)


def test_families_that_are_not_known():
    with pytest.raises(TypeError, match="model: expected a PreTrainedModel of transformers, got LSTM"):
        language_model_spec(torch.nn.LSTM(2, 3))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, **small))
    with pytest.raises(ValueError, match=r"model: expected .* such as BailingHybrid.* got LlamaForCausalLM$"):
        language_model_spec(llama)
    recurrent = transformers.RecurrentGemmaConfig(
        vocab_size=64, lru_width=16, head_dim=8, **small | {"num_hidden_layers": 3}
    )
    with pytest.raises(
        ValueError, match=r"got RecurrentGemmaForCausalLM, which keeps its state in its modules and drops"
    ):
        language_model_spec(transformers.RecurrentGemmaForCausalLM(recurrent))
    rwkv4 = transformers.RwkvConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2)
    with pytest.raises(ValueError, match=r"got RwkvForCausalLM, which is RWKV-4 and writes into its state"):
        language_model_spec(transformers.RwkvForCausalLM(rwkv4))
    with pytest.raises(ValueError, match=r"with weights.* got one on meta"):
        language_model_spec(copy.deepcopy(model_of("Mamba2")).to("meta"))


def test_rwkv7_in_training_keeps_no_state_to_go_on_from():
    model = new_model("RWKV7").train()
    state = {name: tensor.requires_grad_() for name, tensor in start(model).items()}
    cache = initial_cache(model, state)
    first = model(tokens(), cache=cache).logits
    assert all(gradient.any() for gradient in torch.autograd.grad(first.sum(), list(state.values())))
    cache.updated = True
    torch.testing.assert_close(model(tokens(), cache=cache).logits, first)  # it begins from the same state again
    with pytest.raises(
        ValueError, match=r"cache: expected one to go on from, got one that RWKV7Model left where it was"
    ):
        model(tokens(), cache=cache)
    cache.reset()
    model(tokens(), cache=cache)


def test_rwkv7_that_does_not_mix_tokens_yet():
    rwkv7 = pytest.importorskip("rwkv7_hf")
    untrained = rwkv7.RWKV7ForCausalLM(new_model("RWKV7").config)
    with pytest.raises(ValueError, match="no gradient reaches layer0_convolution"):
        language_model_spec(untrained)


def half_detached(state):
    return 0.5 * state + 0.5 * state.detach()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (torch.zeros_like, "a whole run and single tokens give outputs that differ by"),
        (lambda state: state / 2, "a whole run and single tokens give outputs that differ by"),
        (lambda state: state.detach(), "no gradient reaches layer0"),
        (half_detached, "a derivative by the state is"),
    ],
)
def test_a_version_that_does_something_else_with_the_state(monkeypatch, change, message):
    chunked = modeling_qwen3_5.torch_chunk_gated_delta_rule

    def changed(*args, initial_state, **more):
        return chunked(*args, initial_state=None if initial_state is None else change(initial_state), **more)

    monkeypatch.setattr(modeling_qwen3_5, "torch_chunk_gated_delta_rule", changed)
    with pytest.raises(ValueError, match=rf"begins from a state, got Qwen3_5ForCausalLM of transformers .*{message}"):
        language_model_spec(new_model("Qwen3_5"))


@pytest.mark.parametrize("family", ["NemotronH", "Zamba2"])
def test_a_scan_that_clamps_what_the_step_does_not(family):
    with pytest.raises(ValueError, match="a whole run and single tokens give outputs that differ by"):
        language_model_spec(new_model(family, time_step_min=0.1))
    assert list(language_model_spec(new_model(family, time_step_min=0.1), tolerance=1.0))


def test_a_mamba1_scan_whose_share_is_lost(monkeypatch):
    monkeypatch.setattr(spec_module, "add_shares", lambda base: None)
    with pytest.raises(ValueError, match="a whole run and single tokens give outputs that differ by"):
        language_model_spec(new_model("Mamba", seed=1))
