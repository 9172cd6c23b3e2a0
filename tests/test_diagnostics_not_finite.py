"""What is not finite is said, wherever it stands, and no p-value, half-life or burn-in is made of it."""

import json
import math

import pytest
import torch
from torch import nn

from contextual_rnn import ContextState, ContextualRNN, NormalState
from contextual_rnn.diagnostics import diagnose, diagnose_state
from contextual_rnn.experiments.report.tables import DIAGNOSIS, numbers_of

BATCH, STEPS, UNITS = 6, 5, 4
BAD = [math.nan, math.inf, -math.inf]


def gru():
    torch.manual_seed(0)
    return nn.GRU(2, UNITS, batch_first=True)


def model(kind=ContextState):
    network = gru()
    return ContextualRNN(network, kind(network, nn.Linear(3, 8)))


def losses_of(rnn, spoil=lambda losses: losses):
    torch.manual_seed(1)
    x, context = torch.randn(BATCH, STEPS, 2), torch.randn(BATCH, 3)
    return lambda: spoil(rnn(x, context=context)[0].square().mean(2))


def put(value, *place):
    def spoil(losses):
        losses = losses.clone()
        losses[place] = value
        return losses

    return spoil


def said(found):
    """All that a diagnosis says, which is JSON and can be drawn; none of it calls a number what is none."""
    json.dumps(found.as_dict(), allow_nan=False)
    figure = found.plot()
    figure.canvas.draw()
    text = str(found)
    if found.not_finite:
        assert found.not_finite[0].partition(":")[0] in figure.get_suptitle().replace("\n", " ")
        assert "not finite" in text
    return text


def test_finite_numbers_are_nothing_to_say():
    rnn = model()
    found = diagnose(rnn, losses_of(rnn))
    assert found.not_finite == ()
    assert "finite" not in said(found)
    assert found.as_dict()["not_finite"] == []


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", [(3, 2), (slice(None), slice(None))], ids=["one", "all"])
def test_losses(bad, place):
    rnn = model()
    found = diagnose(rnn, losses_of(rnn, put(bad, *place)))
    assert found.p_value is None
    count, first = (1, "[3, 2]") if place == (3, 2) else (BATCH * STEPS, "[0, 0]")
    for arm in ("true", "zeroed", "mean"):
        sentence = f"losses under the state {arm}: {count} of 30 are not finite, the first is losses{first} = {bad:g}"
        assert sentence in found.not_finite
    assert any("losses under the state shuffled" in each and "in 99 runs" in each for each in found.not_finite)
    text = said(found)
    assert "no p-value: the losses are not finite" in text
    assert "p = " not in text
    assert math.isfinite(found.half_life), "h(t) is finite, and so is its influence"
    row = dict(zip(DIAGNOSIS[1:], numbers_of(found), strict=True))
    assert row["p"] == "-"


def test_a_loss_for_each_sequence():
    rnn = model()
    found = diagnose(rnn, losses_of(rnn, lambda losses: put(math.nan, 4)(losses[:, -1])))
    assert "losses under the state true: 1 of 6 are not finite, the first is losses[4] = nan" in found.not_finite
    assert found.p_value is None


def test_only_losses_of_the_test_take_the_p_value_away():
    """Under the zero state alone a loss is infinite, as it may be where a model divides by the size of its state."""
    network, h0 = gru(), torch.randn(1, BATCH, UNITS)
    x = torch.randn(BATCH, STEPS, 2)
    losses = lambda h: network(x, h)[0].square().mean(2) / h.norm(dim=2)[0][:, None]  # noqa: E731
    found = diagnose_state(losses, h0, network)
    (sentence,) = found.not_finite
    assert sentence.startswith(
        "losses under the state zeroed: 30 of 30 are not finite, the first is losses[0, 0] = inf"
    )
    assert found.p_value is not None
    assert math.isinf(found.overall["zeroed"])
    assert "p = " in said(found)


def test_a_single_permutation_is_named():
    """Of what is finite but for one permutation."""
    network, h0 = gru(), torch.randn(1, BATCH, UNITS)
    calls = 0

    def losses(h):
        nonlocal calls
        calls += 1
        values = network(torch.ones(BATCH, STEPS, 2), h)[0].square().mean(2)
        return put(math.nan, 0, 4)(values) if calls == 7 else values

    found = diagnose_state(losses, h0, network, permutations=9)
    assert found.not_finite == (
        "losses under the state shuffled: 1 of 30 are not finite, the first is losses[0, 4] = nan",
    )
    assert found.p_value is None
    assert "no p-value: the losses are not finite" in said(found)


def test_padding_may_hold_anything():
    rnn, lengths = model(), torch.tensor([5, 3, 1, 5, 2, 4])
    beyond = torch.arange(STEPS) >= lengths[:, None]
    clean = diagnose(rnn, losses_of(rnn), lengths=lengths)
    found = diagnose(rnn, losses_of(rnn, lambda losses: losses.masked_fill(beyond, math.nan)), lengths=lengths)
    assert found.not_finite == ()
    assert (found.p_value, found.overall) == (clean.p_value, clean.overall)
    network, h0 = gru(), torch.randn(1, BATCH, UNITS)

    def with_h(h):
        output = network(torch.ones(BATCH, STEPS, 2), h)[0]
        return output.mean(2), output.masked_fill(beyond[..., None], math.nan)

    assert diagnose_state(with_h, h0, network, lengths=lengths).not_finite == ()


@pytest.mark.parametrize("bad", BAD)
def test_the_state(bad):
    network, h0 = gru(), torch.randn(1, BATCH, UNITS)
    h0[0, 2, 1] = bad
    found = diagnose_state(lambda h: network(torch.ones(BATCH, STEPS, 2), h)[0].mean(2), h0, network)
    assert any(
        text.startswith("the state h(0): 1 of 24 are not finite, the first is h(0)[2") for text in found.not_finite
    )
    said(found)
    if math.isnan(bad):
        assert found.p_value is None


def growing(h, factor=1e20):
    """h(t) = factor h(t-1), (B, T, H), and losses that do not follow it."""
    outputs = [factor * h[0]]
    for _ in range(STEPS - 1):
        outputs.append(factor * outputs[-1])
    return torch.ones(BATCH, STEPS) * h[0, :, :1].tanh().square(), torch.stack(outputs, 1)


def test_h_and_its_influence():
    """h(2) is infinite, and so is its gradient; the losses are not."""
    found = diagnose_state(growing, 1 + torch.rand(1, BATCH, UNITS), gru())
    assert found.influence.not_finite_from == 2
    assert math.isnan(found.half_life)
    assert found.burn_in is None
    assert found.p_value is not None, "the losses are finite"
    text = said(found)
    assert "h(t): 96 of 120 are not finite, the first is h[0, 1, 0] = " in text
    assert "influence of h(0): not finite from step 2 on" in text
    assert "does not fade" not in text
    assert "burn-in" not in text
    row = dict(zip(DIAGNOSIS[1:], numbers_of(found), strict=True))
    assert (row["half-life, steps"], row["burn-in, steps"]) == ("not finite", "-")


def test_a_gradient_that_overflows_where_h_does_not():
    found = diagnose_state(lambda h: (growing(h)[0], growing(h)[1][:, :3]), 1e-30 * torch.randn(1, BATCH, UNITS), gru())
    assert found.not_finite == ()
    assert found.influence.not_finite_from == 2
    assert "influence of h(0): not finite from step 2 on" in said(found)


@pytest.mark.parametrize("bad", BAD)
def test_sigma(bad):
    rnn = model(NormalState)
    with torch.no_grad():
        rnn.initial_state.raw_scale["h"][..., 1] = bad if bad != -math.inf else math.nan
    found = diagnose(rnn, losses_of(rnn))
    assert not found.sigma["h"].finite
    assert found.sigma["h"].as_dict() == dict.fromkeys(("mean", "smallest", "spread", "collapsed"))
    text = said(found)
    assert "sigma of h: not finite" in text
    assert "collapsed" not in text
    assert any(sentence.startswith("the draw of h(0): 6 of 24 are not finite") for sentence in found.not_finite)
    assert "losses under the state sampled" in text
    assert found.p_value is not None, "the mean state is finite"


def test_weights_that_are_not_finite():
    """As of a model whose training diverged: the state, the losses, h(t) and the influence are all named."""
    rnn = model()
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.fill_(math.nan)
    text = said(diagnose(rnn, losses_of(rnn)))
    for words in ("the state h(0): 24 of 24", "losses under the state true: 30 of 30", "h(t): 120 of 120"):
        assert words in text
    assert "p = 1" not in text
    assert "does not fade" not in text
