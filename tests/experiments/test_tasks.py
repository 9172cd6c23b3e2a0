"""The two data sets and models are those of the paper."""

import math

import pytest
import torch
from torch import nn

from contextual_rnn import ConstantState, ContextState, FastWeightsRNN, FreeState, NormalState
from contextual_rnn.experiments.config import INGREDIENTS, DecayConfig, RetrievalConfig
from contextual_rnn.experiments.tasks.decay import DecayModel, DecayTask, linear_cosine_decay
from contextual_rnn.experiments.tasks.registry import build_task
from contextual_rnn.experiments.tasks.retrieval import TOKENS, RetrievalModel, retrieval_data
from contextual_rnn.experiments.training.batches import Batches
from contextual_rnn.experiments.training.seeding import generator_for

LETTERS, DIGITS = TOKENS[:26], TOKENS[26:36]


def decoded(pairs: int, **options) -> list[tuple[str, str]]:
    sequences, targets = retrieval_data(500, pairs, generator=generator_for("test"), **options)
    assert sequences.shape == (500, 2 * pairs + 3)
    rows = zip(sequences.tolist(), targets.tolist(), strict=True)
    return [("".join(TOKENS[token] for token in row), TOKENS[target]) for row, target in rows]


@pytest.mark.parametrize("pairs", [1, 4, 26])
def test_retrieval_sequence(pairs):
    asked = set()
    for text, target in decoded(pairs):
        keys, values, marks, query = text[: 2 * pairs : 2], text[1 : 2 * pairs : 2], text[-3:-1], text[-1]
        assert marks == "??"
        assert set(keys) <= set(LETTERS)
        assert len(set(keys)) == pairs, "letters are drawn without replacement"
        assert set(values) <= set(DIGITS)
        assert values[keys.index(query)] == target
        asked.add(keys.index(query))
    assert len(asked) == min(pairs, 26), "every position is asked for"


def test_modified_retrieval_gives_all_letters_then_all_digits():
    for text, target in decoded(3, modified=True):
        keys, values, query = text[:3], text[3:6], text[-1]
        assert set(keys) <= set(LETTERS)
        assert set(values) <= set(DIGITS)
        assert values[keys.index(query)] == target


def test_letters_limit_the_alphabet():
    seen = {letter for text, _ in decoded(4, letters=25) for letter in text[:8:2]}
    assert seen == set(LETTERS[:25])


def test_more_pairs_than_letters_are_refused():
    with pytest.raises(ValueError, match="pairs: expected at most the 3 letters"):
        RetrievalConfig(pairs=4, alphabet_size=3)
    with pytest.raises(ValueError, match="pairs: expected at most the 25 letters"):
        RetrievalConfig(pairs=26, start="wenke2019")
    with pytest.raises(ValueError, match="pairs"):
        retrieval_data(2, 4, letters=3, generator=generator_for("test"))


def test_linear_cosine_decay_is_equation_3():
    initial, period = torch.tensor([3.0, 2.5]).double(), torch.tensor([2.0, 4.5]).double()
    curve = linear_cosine_decay(initial, period)
    for row, (x0, big_t) in enumerate([(3.0, 2.0), (2.5, 4.5)]):
        for t in range(26):
            expected = x0 * (((25 - t) / 25) * (1 + math.cos(2 * big_t * math.pi * t / 25)) / 2 + 0.001)
            assert curve[row, t].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["initial", "period"])
def test_non_finite_decay_is_refused(name):
    arguments = {"initial": torch.tensor([3.0]), "period": torch.tensor([2.0])} | {name: torch.tensor([math.nan])}
    with pytest.raises(ValueError, match=f"{name}: expected finite"):
        linear_cosine_decay(**arguments)


def test_decay_data_has_the_papers_sizes_and_ranges():
    task = build_task(DecayConfig())
    assert isinstance(task, DecayTask)
    for (x, period), periods, samples in [
        (task.training, [0.5, 1.5, 2.5, 3.5, 4.5], 1000),
        (task.validation, [1.0, 2.0, 3.0, 4.0], 500),
    ]:
        values, counts = period.unique(return_counts=True)
        assert values.tolist() == periods
        assert counts.tolist() == [samples] * len(periods)
        start = x[:, 0] / 1.001
        assert 2 <= start.min() < 2.02
        assert 3.98 < start.max() <= 4
    x, period = task.training
    inputs = task.model.input_of(x, period)
    targets = x.diff() / task.model.largest_step
    for values in (inputs, task.model.context_of(x[:, 0], period), targets):
        assert values.abs().max() <= 1
    assert targets.abs().max() == 1


STATES = {"zero": ConstantState, "free": FreeState, "context": ContextState, "normal": NormalState}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("leaves", ["h", "h+a"])
def test_retrieval_model_is_the_papers(state, leaves):
    model = RetrievalModel(RetrievalConfig(state=state, leaves=leaves))
    network, initial_state = model.rnn.network, model.rnn.initial_state
    assert isinstance(network, FastWeightsRNN)
    assert (network.input_size, network.hidden_size, network.inner_steps) == (100, 50, 1)
    assert (network.decay, network.rate) == (0.95, 0.5)
    assert model.embedding.weight.shape == (37, 100)
    assert (model.hidden.out_features, model.readout.out_features) == (100, 37)
    assert type(initial_state) is STATES[state]
    assert [leaf.name for leaf in initial_state.spec] == leaves.split("+")
    tokens = torch.randint(26, (3, 11))
    assert model(tokens).shape == (3, 37)


@pytest.mark.parametrize("leaves", ["h", "h+a"])
def test_retrieval_context_is_the_first_character(leaves):
    torch.manual_seed(0)
    model = RetrievalModel(RetrievalConfig(state="context", leaves=leaves)).double()
    tokens = torch.randint(5, (12, 11))  # few characters, so that several rows share one
    embedded = model.embedding(tokens)
    output, _ = model.rnn(embedded, context=embedded[:, 0])
    expected = model.readout(torch.relu(model.hidden(output[:, -1])))
    torch.testing.assert_close(model(tokens), expected, rtol=1e-12, atol=1e-12)
    assert model.rnn.initial_state(embedded[:, 0])[0].std(dim=0).min() > 0


def test_authors_start():
    config = RetrievalConfig(state="context", leaves="h+a", start="wenke2019")
    torch.manual_seed(0)
    model = RetrievalModel(config)
    network = model.rnn.network
    assert not model.embedding.weight.any()
    assert torch.equal(network.weight_hh, 0.05 * torch.eye(50))
    assert torch.equal(network.weight_ih, 0.05 * torch.eye(50, 100))
    assert network.norm_weight is None
    assert 0.2 < network.bias.abs().max() <= 0.245
    assert model.hidden.weight.std().item() == pytest.approx(math.sqrt(2 / 50), rel=0.05)
    assert not model.hidden.bias.any()
    assert config.letters == 25
    # With a zero embedding the contextual state starts at exactly zero.
    state = model.rnn.initial_state(model.embedding(torch.arange(3)))
    assert not any(leaf.any() for leaf in state)


def start_of(model, config):
    """Which ingredients of the authors' start a model has."""
    network = model.rnn.network
    found = {
        "embedding": not model.embedding.weight.any(),
        "weights": torch.equal(network.weight_ih, 0.05 * torch.eye(50, 100)),
        "bias": bool(network.bias.abs().max() > 0.1),  # the sound bound, 1 / sqrt(100)
        "norm": network.norm_weight is None,
        "readout": not model.hidden.bias.any(),
        "letters": config.letters == 25,
    }
    return {name for name, has in found.items() if has}


@pytest.mark.parametrize("switched", INGREDIENTS)
def test_one_ingredient_of_the_start_is_switched_alone(switched):
    everything = set(INGREDIENTS) - {"none"}
    for start, expected in (("sound", {switched} - {"none"}), ("wenke2019", everything - {switched})):
        config = RetrievalConfig(state="context", leaves="h+a", start=start, switched=switched)
        assert start_of(RetrievalModel(config), config) == expected


def test_lstm_as_a_control():
    model = RetrievalModel(RetrievalConfig(state="context", network="lstm", units=7)).double()
    assert isinstance(model.rnn.network, nn.LSTM)
    tokens = torch.randint(26, (4, 11))
    embedded = model.embedding(tokens)
    output, _ = model.rnn(embedded, context=embedded[:, 0])
    torch.testing.assert_close(model(tokens), model.readout(torch.relu(model.hidden(output[:, -1]))))


@pytest.mark.parametrize("context_input", [False, True])
@pytest.mark.parametrize("state", ["zero", "context", "normal"])
def test_a_shuffled_context_is_the_one_of_another_sequence(state, context_input):
    """Row i reads the first character of row i - 1 as its context, and its own sequence otherwise."""
    torch.manual_seed(0)
    options = {"state": state, "context_input": context_input}
    shuffled = RetrievalModel(RetrievalConfig(**options, shuffled_context=True)).double().eval()
    tokens = torch.randint(26, (5, 11))
    inputs, context = shuffled.embedding(tokens), shuffled.embedding(tokens[[4, 0, 1, 2, 3], 0])
    if context_input:
        inputs = torch.cat([inputs, context[:, None].expand(5, 11, 100)], dim=2)
    output, _ = shuffled.rnn(inputs, context=context)
    expected = shuffled.readout(torch.relu(shuffled.hidden(output[:, -1])))
    torch.testing.assert_close(shuffled(tokens), expected, rtol=1e-12, atol=1e-12)


def test_more_readout_units_can_match_the_parameters_of_a_context():
    def parameters(**options):
        return sum(p.numel() for p in RetrievalModel(RetrievalConfig(**options)).parameters())

    spent = parameters(state="context") - parameters(state="zero")
    assert spent == 50 * 100 + 50
    assert abs(parameters(state="zero", readout_units=157) - parameters(state="context")) < 88


def test_without_writing_nothing_is_remembered():
    """rate 0 leaves layer norm and the inner step, and an A that stays zero."""
    network = RetrievalModel(RetrievalConfig(state="zero", rate=0.0)).rnn.network
    _, (_, a_n) = network(torch.randn(3, 5, 100), torch.randn(3, 50), return_fast_weights=True)
    assert not a_n.any()


@pytest.mark.parametrize("state", STATES)
def test_decay_model_is_the_papers(state):
    model = DecayModel(DecayConfig(state=state))
    lstm, initial_state = model.rnn.network, model.rnn.initial_state
    assert isinstance(lstm, nn.LSTM)
    assert lstm.hidden_size == 128
    assert type(initial_state) is STATES[state]
    assert lstm.input_size == (2 if state in ("zero", "free") else 1), "without a context the period is in every step"
    assert model.readout.out_features == 1
    if state == "normal":
        net = initial_state.mean.net
        assert (net[0].in_features, net[0].out_features) == (2, 50)
        scales = [d.scale for d in initial_state.distribution(torch.zeros(1, 2)).values()]
        assert all(torch.allclose(scale, torch.tensor(0.25)) for scale in scales)


@pytest.mark.parametrize("state", ["context", "normal"])
def test_decay_with_a_linear_encoder_and_the_period_at_every_step(state):
    """The mean of h(0) is linear in the context."""
    model = DecayModel(DecayConfig(state=state, context_units=0, period_input=True)).eval()
    assert model.rnn.network.input_size == 2
    contexts = torch.tensor([[-1.0, 0.5], [0.6, -0.4]])
    one, other, between = model.rnn.initial_state(torch.cat([contexts, contexts.mean(0, keepdim=True)]))[0][0]
    assert not torch.equal(one, other)
    torch.testing.assert_close(between, (one + other) / 2)


def test_free_run_feeds_predictions_back():
    torch.manual_seed(3)
    model = DecayModel(DecayConfig(state="context"), largest_step=0.7).eval()
    initial, period = torch.tensor([2.5, 3.5]), torch.tensor([1.0, 3.0])
    paths = model.free_run(initial, period)[:, 0]
    with torch.no_grad():
        steps = model(paths[:, :-1], period)
    torch.testing.assert_close(paths.diff(dim=1), steps * 0.7, rtol=1e-5, atol=1e-5)


def test_batch_k_depends_on_seed_and_k_alone():
    data = torch.arange(100), 2 * torch.arange(100)
    forward = Batches(seed=3, data=data, batch_size=32)
    assert all(torch.equal(2 * rows, doubled) for rows, doubled in (forward[k] for k in range(8)))
    in_order = [forward[k][0].tolist() for k in range(8)]
    backward = Batches(seed=3, data=data, batch_size=32)
    assert [backward[k][0].tolist() for k in reversed(range(8))] == in_order[::-1]
    assert sorted(index for batch in in_order[:4] for index in batch) == list(range(100))
    assert in_order[:4] != in_order[4:]
    assert Batches(seed=4, data=data, batch_size=32)[0][0].tolist() != in_order[0]
