"""Valid calls of networks that run from an initial state."""

from __future__ import annotations

from typing import Any

import torch
from tests.fuzz.call import Call, case
from tests.fuzz.draw import Draw, Subject, network_and_spec, random_state, subject
from tests.fuzz.networks import ODD_NETWORKS
from tests.networks import INPUT_SIZE, is_cell, make_input, tensors_of
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import contextual_rnn as ours
from contextual_rnn.export import AnyLength

STEPS = 4
SEQUENCES = [
    "rnn", "rnn deep both ways", "gru", "lstm", "lstm deep both ways", "lstm projected", "fast weights",
    "fast weights, dense A", "fast weights, low-rank A", "gru, one state for all layers",
]  # fmt: skip
ONE_WAY = [name for name in SEQUENCES if name not in ("rnn deep both ways", "lstm deep both ways", "lstm projected")]
KNOWN_ALWAYS = ["rnn", "gru", "lstm", "fast weights"]


def model_of(d: Draw, networks: Any = None, kinds: Any = None) -> tuple[ours.ContextualRNN, Subject]:
    s = subject(d, kinds, networks) if kinds else subject(d, networks=networks)
    backend = d.choose(["auto", "auto", "torch"])
    return ours.ContextualRNN(s.network, s.state, backend).train(d.chance(0.5)), s


def _bare(call: Call) -> Any:
    """The network alone, from zeros, under the same input."""
    given = call.args[0] if call.args else call.kwargs["input"]
    network, call_args = call.function.network, (given,)
    if "hx" in call.kwargs:
        call_args = (given, call.kwargs["hx"])
    return network(*call_args)


def _finite(result: Any) -> None:
    for tensor in tensors_of(result):
        assert tensor.isfinite().all(), "a result that is not finite"


@case("ContextualRNN")
def _(d: Draw) -> Call:
    s = subject(d)
    return Call(ours.ContextualRNN, [s.network, s.state], d.some(backend=d.choose(["auto", "torch"])), makes=True)


@case("ContextualRNN.forward")
def _(d: Draw) -> Call:
    lengths = d.chance(0.6)
    model, s = model_of(d, SEQUENCES if lengths else None)
    batch = d.choose([1, 3]) if lengths else d.choose([None, 1, 3])
    options: dict[str, Any] = d.some(generator=d.generator())
    if d.chance(0.3):
        options["hx"] = random_state(s.spec, batch)
    options["context"] = s.new_context(d, batch)
    inputs = make_input(s.network, batch, STEPS)
    if not lengths and batch is not None and not is_cell(s.network) and d.chance(0.3):
        time_first = inputs if not getattr(s.network, "batch_first", False) else inputs.transpose(0, 1)
        inputs = pack_padded_sequence(time_first, torch.randint(1, STEPS + 1, (batch,)), enforce_sorted=False)
        options.pop("hx", None)
    elif lengths and batch is not None:
        if d.chance(0.6):
            options["lengths"] = torch.randint(2, STEPS + 1, (batch,)).to(d.choose([torch.int64, torch.int32]))
        if d.chance(0.4) and not getattr(s.network, "bidirectional", False):
            options["burn_in"] = 1
        options |= d.some(final_state=False)
        if getattr(s.network, "batch_first", False) and d.chance(0.5):  # rows first, however flags are laid out
            options["reset"] = torch.rand(batch, STEPS) < 0.3
        elif getattr(s.network, "batch_first", False) and d.chance(0.3) and "lengths" not in options:
            options["mask"] = torch.arange(STEPS) < torch.randint(2, STEPS + 1, (batch, 1))
    keep = ("context",) if "hx" in options else ()  # beside which it is not read
    return Call(model, [inputs], options, expect=_finite, alone=_bare, keep=keep)


@case("ContextualRNN.forward of odd networks")
def _(d: Draw) -> Call:
    """Networks of a user's own: right, or refused by name; what they raise themselves is passed on."""
    kind = d.choose(["in place", "state alone", "wrong state", "no state", "text", "raising", "without parameters",
                     "delegating", "half"])  # fmt: skip
    network = ODD_NETWORKS[kind]()
    state = d.choose([ours.FreeState(network, value=0.25), ours.ConstantState(network, 0.25)])
    batch, cell = d.choose([None, 1, 3]), state.spec.input_ndim == 2
    batch = batch if cell else 3
    options: dict[str, Any] = {}
    if not cell or (batch is not None and d.chance(0.3)):
        options = d.some(reset=torch.tensor([True, False, True][: batch or 1])) if cell else {}
        options |= {} if cell else d.some(lengths=torch.tensor([4, 1, 2]))

    def call(model: Any, x: Any, **options: Any) -> Any:
        return model(x, **options)

    inputs = torch.randn(*(() if batch is None else (batch,)), *(() if cell else (STEPS,)), INPUT_SIZE)
    return Call(call, [ours.ContextualRNN(network, state), inputs], options, lenient=True, keep=("0",))


@case("generate of odd networks")
def _(d: Draw) -> Call:
    network = ODD_NETWORKS[d.choose(["in place", "state alone", "wrong state", "no state", "text", "raising"])]()
    model = ours.ContextualRNN(network, ours.FreeState(network, value=0.25))

    def step(output: Tensor, value: Tensor) -> Tensor:
        return value + output[:, :INPUT_SIZE]

    options = {"num_steps": 2} | d.some(num_samples=2, sample=False)
    return Call(lambda model, first, **options: ours.generate(model, step, first, **options),
                [model, torch.randn(2, INPUT_SIZE)], options, lenient=True, keep=("0",))  # fmt: skip


@case("truncated")
def _(d: Draw) -> Call:
    model, s = model_of(d, ONE_WAY)
    batch, steps = d.choose([1, 3]), d.choose([1, 2, 3, 9])
    options = {"context": s.new_context(d, batch), **d.some(lengths=torch.randint(1, STEPS + 1, (batch,)))}
    if d.chance(0.3):
        options["hx"] = random_state(s.spec, batch)
    return Call(ours.truncated, [model, make_input(s.network, batch, STEPS), steps], options, expect=_finite,
                finish=list)  # fmt: skip


@case("ContextualRNN.stream")
def _(d: Draw) -> Call:
    model, s = model_of(d, [*ONE_WAY, "rnn cell", "gru cell", "lstm cell", "fast weights cell, dense A"])
    batch = d.choose([1, 3])
    options = {"context": s.new_context(d, batch), "batch_size": batch, **d.some(generator=d.generator())}
    if d.chance(0.3):
        options["hx"] = random_state(s.spec, batch)
    flags = d.some(reset=torch.rand(batch) < 0.5)

    def steps(model: ours.ContextualRNN, x: Tensor, flags: dict[str, Any], **options: Any) -> tuple[Tensor, Any]:
        stream = model.stream(**options)
        stream(x)
        return stream(x, **flags).clone(), stream.state

    return Call(steps, [model, torch.randn(batch, INPUT_SIZE), flags], options, expect=_finite, keep=("0", "2"))


@case("detach")
def _(d: Draw) -> Call:
    state = random_state(network_and_spec(d)[1], d.choose([None, 3]))
    return Call(ours.detach, [d.choose([state, {"a": [state, None]}, ours.LowRank(torch.ones(2), torch.ones(2))])])


@case("generate")
def _(d: Draw) -> Call:
    model, s = model_of(d, [*ONE_WAY, "rnn cell", "gru cell", "lstm cell", "fast weights cell, dense A"])
    batch, samples, steps = d.choose([1, 2]), d.choose([1, 3]), d.choose([1, 2])
    readout = nn.Linear(5, INPUT_SIZE)
    options = d.some(num_samples=samples, sample=d.chance(0.5), generator=d.generator(), embed=lambda value: 2 * value)
    options |= {"context": s.new_context(d, batch), "num_steps": steps}
    options |= d.some(stop=lambda value: value[:, 0] > 0) if d.chance(0.5) else {}
    if d.chance(0.2):
        options["hx"] = random_state(s.spec, batch)

    def step(output: Tensor, value: Tensor) -> Tensor:
        return value + readout(output)

    shape = (batch, options.get("num_samples", 1), steps)

    def expect(generated: Any) -> None:
        values = generated if isinstance(generated, Tensor) else generated.values
        assert values.shape == (*shape, INPUT_SIZE), f"expected {shape}, got {tuple(values.shape)}"
        _finite(values)

    if d.chance(0.6):
        return Call(ours.generate, [model, step, torch.randn(batch, INPUT_SIZE)], options, expect=expect)
    options["prompt"] = torch.randn(batch, 3, INPUT_SIZE)
    options |= d.some(lengths=torch.randint(1, 4, (batch,)), return_outputs=True)
    return Call(ours.generate, [model, step], options, expect=expect)


@case("generate tokens")
def _(d: Draw) -> Call:
    model, s = model_of(d, ["gru", "lstm", "gru cell", "fast weights"])
    batch, steps, samples = d.choose([1, 2]), d.choose([1, 3]), d.choose([1, 2])
    scores, embedding = nn.Linear(5, 4), nn.Embedding(4, INPUT_SIZE)
    options: dict[str, Any] = {"prompt": torch.randint(4, (batch, 2)), "num_steps": steps, "num_samples": samples}
    options |= {"context": s.new_context(d, batch), "embed": embedding, **d.some(stop=3, generator=d.generator())}
    if d.chance(0.5):
        options |= {"beams": samples + 1, **d.some(length_penalty=0.6)}
    else:
        options["sampler"] = ours.TokenSampler(*d.choose([(), (0.0,), (0.7, 2, 0.9)]))

    def expect(generated: Any) -> None:
        assert generated.values.shape == (batch, samples, steps), f"got {tuple(generated.values.shape)}"
        assert (generated.log_probs <= 0).all(), "a probability above 1"

    return Call(lambda model, **options: ours.generate(model, lambda output, token: scores(output), **options),
                [model], options, expect=expect, lenient=True, keep=("0", "embed"),
                alone=lambda call: embedding(call.kwargs["prompt"]))  # fmt: skip


@case("TokenSampler")
def _(d: Draw) -> Call:
    return Call(ours.TokenSampler, [d.choose([1.0, 0, 0.5])], d.some(top_k=2, top_p=0.5), finish=repr)


@case("interpolate")
def _(d: Draw) -> Call:
    options, points = d.some(spherical=d.chance(0.5)), d.choose([2, 3])
    if d.chance(0.5):
        return Call(ours.interpolate, [torch.randn(3, 4), torch.randn(3, 4), points], options, expect=_finite)
    spec = network_and_spec(d)[1]
    return Call(ours.interpolate, [random_state(spec, 2), random_state(spec, 2), points], options | {"spec": spec},
                expect=_finite, keep=("spec",))  # fmt: skip


@case("AnyLength")
def _(d: Draw) -> Call:
    return Call(AnyLength, [model_of(d, KNOWN_ALWAYS)[0]], makes=True)


@case("AnyLength.forward")
def _(d: Draw) -> Call:
    model, s = model_of(d, KNOWN_ALWAYS)
    batch = d.choose([1, 3])
    # Under torch.compile's cache every network is another graph: eager tracing alone takes seconds.
    return Call(AnyLength(model), [make_input(s.network, batch, 2)], {"context": s.new_context(d, batch)},
                same=False, plain=True)  # fmt: skip


@case("AnyLength.train")
def _(d: Draw) -> Call:
    module = AnyLength(model_of(d, KNOWN_ALWAYS)[0])
    return Call(lambda module: module.train(), [module], keep=("0",), changes=True)


def _sizes(d: Draw) -> dict[str, Any]:
    return d.some(
        decay=d.choose([0.9, 0.0, torch.tensor(0.9)]), rate=d.choose([0.05, torch.tensor(0.05)]),
        bias=False, layer_norm=d.chance(0.7), elementwise_affine=False, eps=1e-4, timing="wenke2019",
        backend=d.choose(["attention", "reference", "cpu"]), dtype=torch.float32, device="cpu",
    )  # fmt: skip


@case("FastWeightsRNN")
def _(d: Draw) -> Call:
    options = _sizes(d) | d.some(batch_first=True, return_fast_weights=True)
    return Call(ours.FastWeightsRNN, [3, 5], options, makes=True, plain=True)  # a parameter is learned, a tensor is not


@case("FastWeightsCell")
def _(d: Draw) -> Call:
    return Call(ours.FastWeightsCell, [3, 5], _sizes(d), makes=True, plain=True)


def fast_weights(d: Draw, kind: Any) -> Any:
    options = _sizes(d)
    options.pop("device", None)
    return kind(INPUT_SIZE, 5, **options)


def random_hx(d: Draw, batch: int | None) -> Any:
    lead = () if batch is None else (batch,)
    h = torch.rand(*lead, 5)
    a = d.choose([None, 0.1 * torch.randn(*lead, 5, 5), ours.LowRank(*(0.3 * torch.rand(2, *lead, 2, 5)))])
    return d.choose([None, h, (h, a)])


@case("FastWeightsRNN.forward")
def _(d: Draw) -> Call:
    network, batch = fast_weights(d, ours.FastWeightsRNN), d.choose([None, 1, 3])
    network.batch_first = d.chance(0.5)
    options = {"hx": random_hx(d, batch)} | d.some(return_fast_weights=d.chance(0.5))
    if batch is not None and d.chance(0.5):
        options["lengths"] = torch.randint(1, STEPS + 1, (batch,))
    return Call(network, [make_input(network, batch, STEPS)], options, expect=_finite)


@case("FastWeightsCell.forward")
def _(d: Draw) -> Call:
    network, batch = fast_weights(d, ours.FastWeightsCell), d.choose([None, 1, 3])
    return Call(network, [make_input(network, batch), random_hx(d, batch)], expect=_finite)


@case("FastWeightsRNN.recur", "FastWeightsCell.recur")
def _(d: Draw) -> Call:
    network, batch = fast_weights(d, ours.FastWeightsRNN), d.choose([1, 3])
    options = d.some(return_fast_weights=True, lengths=torch.randint(1, STEPS + 1, (batch,)))
    return Call(network.recur, [torch.randn(batch, STEPS, 5), random_hx(d, batch)], options, expect=_finite)


@case("FastWeightsRNN.project", "FastWeightsCell.project")
def _(d: Draw) -> Call:
    network = fast_weights(d, d.choose([ours.FastWeightsRNN, ours.FastWeightsCell]))
    return Call(network.project, [torch.randn(*d.choose([(), (2,), (2, 4)]), INPUT_SIZE)], expect=_finite)


@case(*[f"{kind}.{name}" for kind in ("FastWeightsRNN", "FastWeightsCell")
        for name in ("reset_parameters", "extra_repr", "options")])  # fmt: skip
def _(d: Draw) -> Call:
    network = fast_weights(d, d.choose([ours.FastWeightsRNN, ours.FastWeightsCell]))

    def use(network: Any) -> Any:
        network.reset_parameters()
        return network.extra_repr(), network.options.inner_steps

    return Call(use, [network], changes=True, keep=("0",))


@case("fast_weights_spec")
def _(d: Draw) -> Call:
    network = fast_weights(d, d.choose([ours.FastWeightsRNN, ours.FastWeightsCell]))
    return Call(ours.fast_weights_spec, [network], d.some(a0=d.choose(["zero", "dense", "low_rank"]), rank=2))


@case("AdditiveAttention.reset_parameters")
def _(d: Draw) -> Call:
    return Call(lambda module: module.reset_parameters(), [ours.AdditiveAttention(2, 3, 4)], keep=("0",), changes=True)


@case("AdditiveAttention")
def _(d: Draw) -> Call:
    return Call(ours.AdditiveAttention, [2, 3, 4], makes=True)


@case("AdditiveAttention.forward")
def _(d: Draw) -> Call:
    batch, several = d.choose([1, 3]), d.chance(0.5)
    query = torch.randn(batch, 2, 2) if several else torch.randn(batch, 2)
    mask = torch.rand(batch, STEPS) < 0.7
    mask[:, 0] = True
    options = d.some(values=torch.randn(batch, STEPS, 6), mask=mask, lengths=torch.randint(1, STEPS + 1, (batch,)))

    def expect(result: Any) -> None:
        _finite(result)
        assert torch.allclose(result.weights.sum(-1), torch.ones(())), "weights that do not sum to one"

    return Call(ours.AdditiveAttention(2, 3, 4), [query, torch.randn(batch, STEPS, 3)], options, expect=expect)


@case("sequence_cross_entropy")
def _(d: Draw) -> Call:
    network, batch = fast_weights(d, ours.FastWeightsRNN), d.choose([1, 3])
    modules: list[Any] = [nn.Embedding(7, INPUT_SIZE), network, nn.Linear(5, 6), nn.Linear(6, 4)]
    args = [torch.randint(7, (batch, STEPS)), torch.randint(4, (batch,)), *modules, random_hx(d, batch)]
    backward = d.chance(0.5)

    def finish(loss: Tensor) -> Any:
        if not (backward and loss.requires_grad):
            return loss
        embedding, run = args[2], args[3]  # which may be others than those above by now
        return loss, torch.autograd.grad(loss, [*embedding.parameters(), *run.parameters()])

    return Call(ours.sequence_cross_entropy, args, expect=_finite, finish=finish, gradient=backward)


def _attached(d: Draw) -> tuple[nn.Module, Subject]:
    s = subject(d, networks=[name for name in SEQUENCES if "," not in name])
    return ours.attach(s.network, s.state), s


@case("attach")
def _(d: Draw) -> Call:
    s = subject(d, networks=[name for name in SEQUENCES if "," not in name])
    options = {"host": nn.Sequential(s.network), "context": "input"} if d.chance(0.5) else {}
    return Call(ours.attach, [s.network, s.state], options, changes=True)


@case("given_context")
def _(d: Draw) -> Call:
    network, s = _attached(d)
    context, x = s.new_context(d, 3), make_input(network, 3)

    def use(context: Any, network: nn.Module | None) -> Any:
        with ours.given_context(context, network=network):
            return s.network(x)

    def alone(_: Call) -> Any:
        return s.network(x, random_state(s.spec, 3))

    return Call(use, [context, d.choose([None, network])], alone=alone, keep=("0",))


@case("remove_initial_state")
def _(d: Draw) -> Call:
    return Call(ours.remove_initial_state, [_attached(d)[0]], changes=True, same=False)
