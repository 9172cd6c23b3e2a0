"""A language model and its initial state as one module: calls, generation, half precision, copies, training loops."""

import copy
import gc

import pytest
import torch
from tests.language.families import model_of, new_model, random_state, tokens
from transformers import DynamicCache

from contextual_rnn import ContextState, FreeState, NormalState
from contextual_rnn.language import ContextualLanguageModel, initial_cache, language_model_spec


@pytest.fixture(params=["Qwen3_5", "Mamba2"])
def model(request):
    return model_of(request.param)


def filled(spec, seed=1):
    return FreeState(spec, value={name: tensor[0] for name, tensor in random_state(spec, 1, seed).items()})


@torch.no_grad()
def test_calls_are_those_of_the_model(model):
    spec, ids = language_model_spec(model), tokens()
    state = filled(spec)
    tuned = ContextualLanguageModel(model, state).eval()
    wanted = model(ids, cache=initial_cache(model, state(batch_size=2)), labels=ids)
    output = tuned(ids, labels=ids)
    assert torch.equal(output.logits, wanted.logits)
    assert torch.equal(output.loss, wanted.loss)
    embedded = tuned(inputs_embeds=model.get_input_embeddings()(ids)).logits
    torch.testing.assert_close(embedded, wanted.logits)
    own = DynamicCache(config=model.config)
    torch.testing.assert_close(
        tuned(ids, cache=initial_cache(model, filled(spec, 2)(batch_size=2))).logits,
        model(ids, cache=initial_cache(model, filled(spec, 2)(batch_size=2))).logits,
    )
    assert tuned.config is model.config
    assert model(ids, cache=own).logits.shape == wanted.logits.shape, "other caches are left alone"
    for name in ("num_samples", "return_posterior", "reset", "final_state", "arguments"):
        with pytest.raises(TypeError, match=f"{name}: expected an argument of the model, got one of ContextualRNN"):
            tuned(ids, **{name: 2})
    with pytest.raises(TypeError, match="of transformers; use language_model_spec and ContextualLanguageModel"):
        FreeState(model)
    with pytest.raises(TypeError, match="input_ids: expected a tensor, got NoneType"):
        tuned()
    vectors = model.get_input_embeddings()(ids)
    for wrong in ({"input_ids": ids[0]}, {"input_ids": ids[:, :0]}, {"inputs_embeds": vectors[0]}):
        (name, received), *_ = wrong.items()
        expected = (
            rf"^{name}: expected \(batch, time.*\) of at least one token, got \({', '.join(map(str, received.shape))}"
        )
        with pytest.raises(ValueError, match=expected):
            tuned(**wrong)
        with pytest.raises(ValueError, match=expected):
            model(**wrong, cache=initial_cache(model, filled(spec, len(received))(batch_size=len(received))))
    for wrong in (ids[0], ids[:, :0]):
        with pytest.raises(ValueError, match=r"^input_ids: expected \(batch, time\) of at least one token, got"):
            tuned.generate(wrong)


@torch.no_grad()
def test_generation_for_contexts_draws_and_beams(model):
    spec, ids = language_model_spec(model), tokens()
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    contexts = torch.randn(2, 2)
    tuned = ContextualLanguageModel(model, ContextState(spec, torch.nn.Linear(2, 8))).eval()
    state = tuned.initial_state(contexts)
    wanted = model(ids, cache=initial_cache(model, state)).logits[:, -1]
    logits = tuned.generate(ids, context=contexts, **options).logits[0]
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    beams = tuned.generate(ids, context=contexts, num_beams=3, **options).logits[0]
    torch.testing.assert_close(beams, wanted.repeat_interleave(3, 0), rtol=1e-4, atol=1e-5)
    drawn = ContextualLanguageModel(model, NormalState(spec, torch.nn.Linear(2, 8), scale=0.5)).eval()
    options["do_sample"] = True
    generator = torch.Generator().manual_seed(5)
    rows = drawn.generate(ids, context=contexts, num_return_sequences=3, generator=generator, **options).logits[0]
    state = drawn.initial_state.sample(contexts, 3, generator=torch.Generator().manual_seed(5))
    wanted = model(ids.repeat_interleave(3, 0), cache=initial_cache(model, state)).logits[:, -1]
    torch.testing.assert_close(rows, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(rows[0], rows[1])


@torch.no_grad()
@torch.no_grad()
def test_a_cache_that_is_passed_wins_over_the_initial_state(model):
    ids, options = tokens(), {"max_new_tokens": 3, "do_sample": False}
    tuned = ContextualLanguageModel(model, filled(language_model_spec(model))).eval()
    for name in ("cache", "past_key_values"):
        first, second = ({name: model(ids[:, :-1]).cache} for _ in range(2))  # of transformers' own class
        assert torch.equal(tuned(ids[:, -1:], **first).logits, model(ids[:, -1:], **second).logits)
    first, second = ({"cache": model(ids[:, :-1]).cache} for _ in range(2))
    assert torch.equal(tuned.generate(ids, **first, **options), model.generate(ids, **second, **options))


def test_a_cache_goes_on_and_begins_anew(model):
    ids, state = tokens(), random_state(language_model_spec(model))
    cache = initial_cache(model, state)
    first, second = (model(ids, cache=cache).logits for _ in range(2))
    assert (first - second).abs().max() > 0.01
    cache.reset()
    torch.testing.assert_close(model(ids, cache=cache).logits, first)
    cache.reorder_cache(torch.tensor([1, 0]))
    swapped = initial_cache(model, state)
    model(ids, cache=swapped)
    torch.testing.assert_close(model(ids.flip(0), cache=cache).logits.flip(0), model(ids, cache=swapped).logits)


def test_a_model_in_half_precision_keeps_its_states_in_float32():
    model = new_model("Qwen3_5").bfloat16()
    spec = language_model_spec(model, convolutions=True)
    assert {leaf.name: leaf.dtype for leaf in spec} == {
        "layer0": torch.float32,
        "layer0_convolution": torch.bfloat16,
        "layer2": torch.float32,
        "layer2_convolution": torch.bfloat16,
    }
    tuned = ContextualLanguageModel(model, FreeState(spec))
    tuned(tokens(), labels=tokens()).loss.backward()
    assert all(parameter.grad.any() for parameter in tuned.initial_state.parameters())
    tuned.initial_state.float()  # parameters to train in full precision; the model receives what it keeps
    tuned(tokens(), labels=tokens()).loss.backward()
    assert {parameter.grad.dtype for parameter in tuned.initial_state.parameters()} == {torch.float32}
    model.float()
    with pytest.raises(TypeError, match=r"expected 'layer0_convolution' of torch.float32"):
        initial_cache(model, random_state(spec))


def test_in_autocast(model):
    spec = language_model_spec(model)
    tuned = ContextualLanguageModel(model, filled(spec))
    with torch.autocast("cpu", torch.bfloat16):
        loss = tuned(tokens(), labels=tokens()).loss
    loss.backward()
    torch.testing.assert_close(loss.float(), tuned(tokens(), labels=tokens()).loss, rtol=0.05, atol=0.05)
    assert all(parameter.grad.any() for parameter in tuned.initial_state.parameters())


@torch.no_grad()
def test_copies_and_state_dicts(model):
    tuned = ContextualLanguageModel(model, filled(language_model_spec(model))).eval()
    twin = copy.deepcopy(tuned)
    assert torch.equal(twin(tokens()).logits, tuned(tokens()).logits)
    twin.load_state_dict(tuned.state_dict())
    with pytest.raises(ValueError, match="input_ids: expected 2 rows"):
        twin.model(tokens(3), cache=initial_cache(twin.model, twin.initial_state(batch_size=2)))


def test_compiled():
    model = new_model(
        "Mamba2", num_hidden_layers=1
    )  # torch.compile fails for Qwen3.5 on a CPU, with and without a cache
    tuned = ContextualLanguageModel(model, filled(language_model_spec(model))).eval()
    torch._dynamo.reset()
    loss = torch.compile(tuned, backend="eager")(tokens(), labels=tokens()).loss
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in tuned.initial_state.parameters()]
    tuned.zero_grad()
    wanted = tuned(tokens(), labels=tokens()).loss
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradients, [parameter.grad for parameter in tuned.initial_state.parameters()])
    torch._dynamo.reset()


@torch.no_grad()
def test_what_is_compiled_depends_on_no_other_model():
    """A table of all models is guarded where it is read: another entry and its end would compile anew, or fail."""
    tuned, other = (new_model("Mamba2", num_hidden_layers=1) for _ in range(2))
    tuned = ContextualLanguageModel(tuned, filled(language_model_spec(tuned))).eval()
    language_model_spec(other)
    torch._dynamo.reset()
    compiled, ids = torch.compile(tuned, backend="eager"), tokens()
    wanted = compiled(ids).logits
    with torch._dynamo.config.patch(error_on_recompile=True):
        del other
        gc.collect()
        assert torch.equal(compiled(ids).logits, wanted)
        language_model_spec(new_model("Mamba2", num_hidden_layers=1))
        assert torch.equal(compiled(ids).logits, wanted)
    torch._dynamo.reset()


def rows_of_tokens():
    return [{"input_ids": tokens(1, 9, seed)[0], "labels": tokens(1, 9, seed)[0]} for seed in range(8)]


def unchanged(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_in_a_trainer(tmp_path):
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments  # here, as they take seconds

    model = new_model("Mamba2", num_hidden_layers=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = ContextualLanguageModel(model, FreeState(language_model_spec(model)))
    options = {"report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_steps": 2}
    arguments = TrainingArguments(tmp_path, per_device_train_batch_size=4, learning_rate=0.05, **options)
    trainer = Trainer(model=tuned, args=arguments, train_dataset=rows_of_tokens())
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert float(losses[-1]) < float(losses[0])
    assert unchanged(model, before)


def test_in_lightning(tmp_path):
    from lightning.pytorch import LightningModule, Trainer  # here, as it takes seconds

    model = new_model("Mamba2", num_hidden_layers=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    class Tuning(LightningModule):
        def __init__(self):
            super().__init__()
            self.tuned = ContextualLanguageModel(model, FreeState(language_model_spec(model)))
            self.losses = []

        def training_step(self, batch):
            loss = self.tuned(**batch).loss
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.tuned.initial_state.parameters(), 0.05)

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    tuning = Tuning().train()
    trainer = Trainer(max_epochs=4, enable_model_summary=False, default_root_dir=tmp_path, **options)
    trainer.fit(tuning, torch.utils.data.DataLoader(rows_of_tokens(), batch_size=8))
    assert tuning.losses[-1] < tuning.losses[0]
    assert unchanged(model, before)


def test_reading_the_spec_leaves_modes_and_generators_as_they_are():
    model = new_model("Mamba2", num_hidden_layers=1).train()
    next(model.children()).eval()
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    language_model_spec(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())
