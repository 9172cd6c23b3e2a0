"""A state of the user's own: its moments are checked, and it does all that ours do; docs/own-states.md is true.

The contract of all states, over every network, is that of tests/test_initial_state.py, where one is in the list.
"""

import copy
import re
from pathlib import Path

import pytest
import torch
from tests.networks import make, make_input, tensors_of
from tests.own_states import GivenState, OwnState
from torch import nn

import contextual_rnn
from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextualRNN,
    FreeState,
    InitialState,
    Leaf,
    LeafwiseState,
    Moments,
    NormalState,
    StateSpec,
    SumState,
    generate,
    load_state,
    save_state,
    state_spec,
)

PAGE = (Path(__file__).parents[1] / "docs" / "own-states.md").read_text()
B = 3
GRU, LSTM = nn.GRUCell(3, 5), nn.LSTMCell(3, 5)
H, BATCH = torch.randn(5), torch.randn(B, 5)


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    scope = {"__name__": "own_states"}
    exec(compile(code, "own-states.md", "exec"), scope)
    assert capsys.readouterr().out.strip() == re.search(r"print\(error\)  # (.*)", PAGE)[1]
    assert scope["paths"].shape == (4, 3, 5, 1)
    assert scope["loss"].isfinite()
    assert contextual_rnn.Moments is Moments


def one(mean, scale=None):
    return GivenState(GRU, {"h": Moments(mean, scale)})


def state_of(moments, spec=GRU, **call):
    return lambda: GivenState(spec, moments, reads_context=True)(**{"context": BATCH, "batch_size": B} | call)


BOTH = {"h": Moments(BATCH, None), "c": Moments(BATCH, None)}
COUNTED = StateSpec((Leaf("h", (5,)), Leaf("n", (1,), dtype=torch.int64)))
COMPLEX = StateSpec(Leaf("h", (5,), dtype=torch.complex64))
NAME = r"^GivenState.moments"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (state_of([BATCH]), TypeError, rf"{NAME}: expected a dict .*, got list"),
        (state_of({}), ValueError, rf"{NAME}: expected Moments of the leaves h, got \[\]"),
        (state_of({"c": BOTH["c"]}, LSTM), ValueError, rf"{NAME}: expected Moments of the leaves h, c, got \['c'\]"),
        (state_of(BOTH), ValueError, rf"{NAME}: expected Moments of the leaves h, got \['h', 'c'\]"),
        (state_of({"h": BATCH}), TypeError, rf"{NAME}\['h'\]: expected Moments\(mean, scale\), got Tensor"),
        (state_of({"h": (BATCH,)}), TypeError, rf"{NAME}\['h'\]: expected Moments\(mean, scale\), got tuple"),
        (state_of({"h": Moments(None, None)}), TypeError, rf"{NAME}\['h'\].mean: expected a tensor, got NoneType"),
        (state_of({"h": Moments(BATCH.to_sparse(), None)}), ValueError, r"\['h'\].mean: expected a strided tensor"),
        (state_of({"h": Moments(BATCH.long(), None)}), TypeError, r"\.mean: expected real floats, got torch.int64"),
        (state_of({"h": Moments(BATCH + 0j, None)}), TypeError, r"\.mean: expected real floats, got torch.complex64"),
        (state_of({"h": Moments(BATCH, None)}, COMPLEX), TypeError, r"\.mean: expected complex numbers, got torch.flo"),
        (state_of({"h": Moments(BATCH.T, None)}), ValueError, r"\.mean: expected shape \(5,\), with .*, got \(5, 3\)"),
        (state_of({"h": Moments(BATCH[None], None)}), ValueError, r"\.mean: expected shape .*, got \(1, 3, 5\)"),
        (state_of({"h": Moments(torch.zeros(()), None)}), ValueError, r"\.mean: expected shape \(5,\), .*, got \(\)"),
        (state_of({"h": Moments(BATCH[:2], None)}), ValueError, r"\.mean: expected a batch of 3, got shape \(2, 5\)"),
        (state_of({"h": Moments(BATCH, None)}, batch_size=None, batched=False), ValueError,
         r"\.mean: expected one example, \(5,\), got shape \(3, 5\)"),
        (lambda: one(BATCH)(), ValueError, r"\.mean: expected one example, \(5,\), got shape \(3, 5\)"),
        (state_of(BOTH | {"c": Moments(BATCH[:2], None)}, LSTM, batch_size=None), ValueError,
         r"\['c'\].mean: expected a batch of 3, got shape \(2, 5\)"),
        (state_of({"h": Moments(BATCH.to("meta"), torch.ones(()))}), ValueError, r"\.scale: expected .* on meta"),
        (state_of({"h": Moments(BATCH, -0.5)}), ValueError, r"\['h'\].scale: expected .* at least 0, got -0.5"),
        (state_of({"h": Moments(BATCH, float("nan"))}), ValueError, r"\['h'\].scale: expected .*, got nan"),
        (state_of({"h": Moments(BATCH, "0.5")}), TypeError, r"\['h'\].scale: expected .*, got '0.5'"),
        (state_of({"h": Moments(BATCH, BATCH + 0j)}), TypeError, r"\.scale: expected real floats, got torch.complex"),
        (state_of({"h": Moments(BATCH, torch.ones(3))}), ValueError, r"\.scale: expected a shape that .*, got \(3,\)"),
        (state_of({"h": Moments(BATCH, torch.ones(2, 5))}), ValueError, r"\.scale: expected a batch of 3, got"),
        (state_of({"h": Moments(BATCH, torch.ones(1, 3, 5))}), ValueError, r"\.scale: expected a shape that"),
        (state_of({"h": BOTH["h"], "n": Moments(torch.zeros(1), None)}, COUNTED), TypeError,
         r"\['n'\].mean: expected torch.int64 and no scale, got torch.float32"),
        (state_of({"h": BOTH["h"], "n": Moments(torch.zeros(1, dtype=torch.int64), 1.0)}, COUNTED), TypeError,
         r"\['n'\].scale: expected None for a leaf of torch.int64, got 1.0"),
    ],
)  # fmt: skip
def test_wrong_moments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_wrong_moments_are_refused_in_every_method_and_part():
    spec = StateSpec(Leaf("h", (5,)))
    for use in (
        lambda state: state.sample(batch_size=B),
        lambda state: state.kl(batch_size=B),
        lambda state: state.log_prob(BATCH),
        lambda state: LeafwiseState(spec, h=state)(batch_size=B),
        lambda state: SumState([FreeState(spec), state], [1, 1])(batch_size=B),
        lambda state: NormalState(spec, state)(batch_size=B),
        lambda state: ContextDropout(FreeState(spec), null=state)(batch_size=B),
        lambda state: ContextDropout(state)(BATCH, B),
        lambda state: ContextualRNN(GRU, state)(torch.randn(B, 3)),
    ):
        with pytest.raises(ValueError, match=r"GivenState.moments\['h'\].mean: expected shape"):
            use(GivenState(spec, {"h": Moments(torch.randn(4), None)}))


@pytest.mark.parametrize("kind", [FreeState, NormalState])
def test_moments_of_a_subclass_of_ours_are_checked_too(kind):
    class Halved(kind):
        def moments(self, context, batch_size, batched):
            moments = super().moments(context, batch_size, batched)
            return {name: Moments(leaf.mean[..., :-1], leaf.scale) for name, leaf in moments.items()}

    class Doubled(kind):
        def moments(self, context, batch_size, batched):
            moments = super().moments(context, batch_size, batched)
            return {name: Moments(2 * leaf.mean, 0.5) for name, leaf in moments.items()}

    parts = (GRU, 0.0, 1.5) if kind is FreeState else (GRU, FreeState(GRU, value=1.5))
    with pytest.raises(ValueError, match=r"^Halved.moments\['h'\].mean: expected shape \(5,\)"):
        Halved(*parts)(batch_size=B)
    assert torch.equal(Doubled(*parts).eval()(batch_size=B), torch.full((B, 5), 3.0))
    assert torch.equal(Doubled(*parts).distribution(batch_size=B)["h"].scale, torch.full((B, 5), 0.5))


def test_one_example_is_tiled_and_parts_of_a_batch_say_its_size():
    assert torch.equal(one(H)(batch_size=B), H.expand(B, 5))
    assert torch.equal(one(H)(torch.zeros(4, 2)), H.expand(4, 5)), "the context says the batch"
    assert torch.equal(one(H)(), H)
    assert torch.equal(one(BATCH)(batch_size=B), BATCH)
    mixed = GivenState(LSTM, {"h": Moments(BATCH, None), "c": Moments(H, None)}, reads_context=True)
    h, c = mixed(torch.zeros(2))  # what the context means is the state's own matter
    assert torch.equal(h, BATCH)
    assert torch.equal(c, H.expand(B, 5))


def test_the_context_of_one_that_reads_it_says_the_batch_of_one_example():
    state, context = GivenState(GRU, {"h": Moments(H, 0.1)}, reads_context=True), torch.rand(B, 2)
    assert torch.equal(state.eval()(context), H.expand(B, 5))
    assert state.sample(context, 2).shape == (2 * B, 5)
    assert state.kl(context).shape == (B,)
    assert torch.equal(GRU(torch.ones(B, 3), state({"static": context})), GRU(torch.ones(B, 3), H.expand(B, 5)))
    assert state(context, batched=False).shape == state(context[0]).shape == (5,), "a vector may be one example"


def test_a_missing_context_is_named():
    class Labelled(InitialState):
        reads_context = True

        def __init__(self, read):
            super().__init__(GRU)
            self.read, self.table = read, nn.Embedding(10, 5)

        def moments(self, context, batch_size, batched):
            return {"h": Moments(self.read(self.table, context), None)}

    message = r"^context: expected one, as the initial state reads it, got None"
    for read in (lambda table, label: table.weight[label], lambda table, label: table(label)):
        state = Labelled(read)
        for use in (state, state.sample, state.posterior, lambda state=state: ContextualRNN(GRU, state)(BATCH[:, :3])):
            with pytest.raises(ValueError, match=message):
                use()
    takes_none = Labelled(lambda table, label: table(torch.tensor(0) if label is None else label))
    assert takes_none(batch_size=B).shape == (B, 5)


def test_a_mean_has_the_dtype_of_the_network_or_of_the_parameters():
    class Converted(OwnState):
        kind: torch.dtype | None = None

        def moments(self, context, batch_size, batched):
            moments = super().moments(context, batch_size, batched)
            return {name: Moments(leaf.mean.to(self.kind), leaf.scale) for name, leaf in moments.items()}

    state, context = Converted(GRU), torch.randn(B, 2)
    state.kind = torch.float64
    with pytest.raises(
        TypeError, match=r"^Converted.moments\['h'\].mean: expected torch.float32, as .*, got torch.float64"
    ):
        state(context)
    assert state.double()(context.double()).dtype == torch.float64
    of_float = Converted(nn.GRUCell(3, 5)).to(torch.bfloat16)
    of_float.kind = torch.float32  # what the network takes, whatever the parameters are
    assert of_float(context.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert OwnState(GRU)(context).dtype == torch.bfloat16


FORMS = [0.5, torch.tensor(0.5), torch.rand(1), torch.rand(5), torch.rand(B, 5), torch.rand(1, 5)]


@pytest.mark.parametrize("scale", FORMS)
def test_a_scale_of_every_form_is_the_same_everywhere(scale):
    state, generator = one(H, scale), torch.Generator()
    wide = torch.as_tensor(scale).expand(B, 5)
    noise = torch.randn(B, 5, generator=generator.manual_seed(1))
    torch.testing.assert_close(state(batch_size=B, generator=generator.manual_seed(1)), H + wide * noise)
    rows = torch.tensor([2, 0])
    noise = torch.randn(2, 5, generator=generator.manual_seed(1))
    drawn = state(batch_size=B, generator=generator.manual_seed(1), rows=rows)
    torch.testing.assert_close(drawn, H + wide[rows] * noise)
    noise = torch.randn(2 * B, 5, generator=generator.manual_seed(1))
    drawn = state.sample(num_samples=2, batch_size=B, generator=generator.manual_seed(1))
    torch.testing.assert_close(drawn, H + wide.repeat_interleave(2, 0) * noise)
    density = torch.distributions.Normal(H.expand(B, 5), wide)
    torch.testing.assert_close(state.log_prob(BATCH), density.log_prob(BATCH).sum(1))
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(density, standard).sum(1)
    torch.testing.assert_close(state.kl(batch_size=B), expected)


def test_leaves_without_floats_are_zero_unless_given():
    h, n = GivenState(COUNTED, {"h": Moments(H, None)})(batch_size=B)
    assert torch.equal(n, torch.zeros(B, 1, dtype=torch.int64))
    fives = torch.full((1,), 5)
    h, n = GivenState(COUNTED, {"h": Moments(H, None), "n": Moments(fives, None)})(batch_size=B)
    assert torch.equal(h, H.expand(B, 5))
    assert torch.equal(n, torch.full((B, 1), 5))
    dropped = ContextDropout(GivenState(COUNTED, {"h": Moments(H, None)}, reads_context=True), null=FreeState(COUNTED))
    assert torch.equal(dropped(None, B)[1], torch.zeros(B, 1, dtype=torch.int64))
    added = SumState([GivenState(COUNTED, {"h": Moments(H, None)}), FreeState(COUNTED, value=1)], [1, 1])
    assert torch.equal(added(batch_size=B)[0], h + 1)


@pytest.mark.parametrize("make_state", [
    lambda: FreeState(GRU), lambda: ConstantState(GRU), lambda: GivenState(COMPLEX, {"h": Moments(H + 0j, 0.5)}),
    lambda: FreeState(StateSpec(Leaf("n", (1,), dtype=torch.int64))),
])  # fmt: skip
def test_only_random_states_have_a_density(make_state):
    with pytest.raises(ValueError, match=r"^state: expected a random state of real numbers, got "):
        make_state().kl(batch_size=B)


def test_sums_and_leafwise_states_have_the_density_of_their_parts():
    spec, context = state_spec(LSTM), torch.randn(B, 2)
    parts = NormalState(spec["h"], nn.Linear(2, 4)), OwnState(spec["c"])
    both = LeafwiseState(spec, h=parts[0], c=parts[1])
    torch.testing.assert_close(both.kl(context), parts[0].kl(context) + parts[1].kl(context))
    first, second = OwnState(GRU), OwnState(GRU)
    density = SumState([first, second], [0.5, 2.0]).distribution(context)["h"]
    one, two = first.distribution(context)["h"], second.distribution(context)["h"]
    torch.testing.assert_close(density.mean, 0.5 * one.mean + 2 * two.mean)
    torch.testing.assert_close(density.variance, 0.25 * one.variance + 4 * two.variance)


def test_files_copies_and_state_dicts(tmp_path):
    source, context = OwnState(LSTM), torch.randn(B, 2)
    save_state(source, tmp_path / "own.safetensors")
    fresh = OwnState(LSTM)
    load_state(fresh, tmp_path / "own.safetensors")
    loaded = OwnState(LSTM)
    loaded.load_state_dict(source.state_dict())
    for other in (fresh, loaded, copy.deepcopy(source)):
        assert all(map(torch.equal, tensors_of(other.eval()(context)), tensors_of(source.eval()(context))))


def test_generated_and_compiled_in_one_graph():
    network, spec = make("lstm cell")
    model = ContextualRNN(network, OwnState(spec)).eval()
    x, context = make_input(network, B), torch.randn(B, 2)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")(x, context=context)
    for found, expected in zip(tensors_of(compiled), tensors_of(model(x, context=context)), strict=True):
        torch.testing.assert_close(found, expected)
    readout = nn.Linear(5, 3)
    paths = generate(model, lambda output, _: readout(output), x, context=context, num_steps=4, num_samples=2)
    assert paths.shape == (B, 2, 4, 3)
    assert not torch.equal(paths[:, 0], paths[:, 1])


def test_reads_context_is_a_flag_or_a_property():
    for reads in (lambda self: True, "yes", None):
        with pytest.raises(
            TypeError, match=r"^Own.reads_context: expected True, False or a method with @property, got "
        ):
            type("Own", (GivenState,), {"reads_context": reads})
    for reads in (True, property(lambda self: True)):
        state = type("Own", (GivenState,), {"reads_context": reads})(GRU, {"h": Moments(H, None)})
        assert state(torch.zeros(B, 2)).shape == (B, 5)
        assert state.reads_context is True
    assert not FreeState(GRU).reads_context


def test_a_class_without_moments_cannot_be_made():
    class Nothing(InitialState):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?moments"):
        Nothing(GRU)  # pyright: ignore[reportAbstractUsage]


class ByRow(FreeState):
    """A state of each row of the batch, whatever the context."""

    def moments(self, context, batch_size, batched):
        free = super().moments(context, batch_size, batched)
        return {name: Moments(mean + torch.arange(len(mean))[:, None], scale) for name, (mean, scale) in free.items()}


@pytest.mark.parametrize("kind", [ConstantState, FreeState, ByRow])
def test_rows_of_a_state_without_a_context(kind):
    """Any rows any number of times, also where the library knows that all are the same."""
    state, rows = kind(LSTM, value=0.5), torch.tensor([2, 0, 2, 2, 1])
    everything = state(batch_size=B)
    for chosen, of_all in zip(state(batch_size=B, rows=rows), everything, strict=True):
        assert torch.equal(chosen, of_all[rows])
    if list(state.parameters()):
        sum(leaf.sum() for leaf in state(batch_size=B, rows=rows)).backward()
        assert all(torch.equal(parameter.grad, torch.full((5,), 5.0)) for parameter in state.parameters())


def test_who_sees_gradients_row_by_row_sees_those_of_rows():
    sizes, rows = [], torch.tensor([2, 0, 2, 2])
    state = FreeState(LSTM)
    state.values.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    state(batch_size=B, rows=rows)
    assert sizes == [B]
    watched = FreeState(GRU, 0.1, error_decay=0.5)
    watched(batch_size=B, rows=rows).sum().backward()
    torch.testing.assert_close(watched.error.first_h, torch.tensor([1.0, 0.0, 3.0]).square().mean().sqrt())


def test_draws_of_rows_are_the_same_whether_gradients_are_seen_row_by_row_or_not():
    plain, hooked, watched = FreeState(LSTM, 0.1), FreeState(LSTM, 0.1), FreeState(LSTM, 0.1, error_decay=0.5)
    hooked.values.register_forward_hook(lambda *_: None)
    expected = plain(batch_size=4, generator=torch.Generator().manual_seed(0))
    for state in (plain, hooked, watched):
        drawn = state(batch_size=B, rows=torch.tensor([2, 0, 2, 2]), generator=torch.Generator().manual_seed(0))
        for leaf, other in zip(drawn, expected, strict=True):
            assert torch.equal(leaf, other)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # no input of the module has a gradient
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_of_every_kind_are_called(kind):
    calls, state = [], FreeState(LSTM)
    getattr(state.values, f"register_{kind}_hook")(lambda *_: calls.append(kind))
    sum(leaf.sum() for leaf in state(batch_size=B)).backward()
    assert calls == [kind]
