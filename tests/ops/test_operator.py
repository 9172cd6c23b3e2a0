"""Every kernel as a PyTorch operator: what looks inside, torch.compile, torch.func, autocast, gets the same numbers."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

from contextual_rnn import ContextState, ContextualRNN, FastWeightsRNN, FreeState, fast_weights_spec
from contextual_rnn._torch_internals import is_transformed
from contextual_rnn.ops import LowRank, fast_weights
from contextual_rnn.ops._fast_weights.operators import OPERATORS
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, decay_tables


def arguments_of(problem):
    """What the operator takes: the leaves in its order, and the settings, with everything kept."""
    leaves = problem.leaves()
    tables = [problem.draw(30 + i, problem.steps + i).requires_grad_() for i in range(2)]
    names = ("inputs", "weight_hh", "h0", "a0", "left", "right", "norm_weight", "norm_bias")
    settings = (problem.inner_steps, problem.timing == "wenke2019", problem.norm != "none", False, problem.eps)
    return (*(leaves.get(name) for name in names), *tables, problem.lengths, *settings, True, True)


@pytest.mark.parametrize("a0", ["zero", "dense", "low_rank"])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_registration(make_problem, kernel, timing, a0, with_lengths):
    """By torch's own checks; the one that is left out compares all outputs, of which what is saved has gaps."""
    arguments = arguments_of(make_problem(timing=timing, a0=a0, with_lengths=with_lengths))
    opcheck(OPERATORS[kernel], arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


@pytest.mark.parametrize(
    ("position", "change"),
    [
        (0, lambda x: x[0]), (0, lambda x: x.half()), (0, lambda x: x[:, :0]), (1, lambda w: w[:, 1:]),
        (2, lambda h: h[:1]), (2, lambda h: h.float()), (3, lambda a: a[:, 1:]), (3, lambda a: a.to_sparse()),
        (4, lambda _: torch.ones(3, 2, 5).double()), (6, lambda g: g[1:]), (8, lambda d: d[1:]), (9, lambda d: d[1:]),
        (10, lambda n: n.int()), (10, lambda n: n[1:]), (11, lambda _: 0), (15, lambda _: float("nan")),
    ],
)  # fmt: skip
def test_an_operator_may_be_called_by_anybody(make_problem, kernel, position, change):
    """What would read or write beyond a tensor's end is refused, not tried."""
    arguments = list(arguments_of(make_problem(a0="dense", with_lengths=True)))
    arguments[position] = change(arguments[position])
    with pytest.raises(ValueError, match="expected"):
        OPERATORS[kernel](*arguments)


def test_the_derivatives_operator_is_as_careful(make_problem, kernel):
    *arguments, keep, keep_written = arguments_of(make_problem(a0="dense", with_lengths=True))
    output, written, saved = OPERATORS[kernel](*arguments, keep, keep_written)
    backward = getattr(torch.ops.contextual_rnn, f"fast_weights_{kernel}_backward").default
    wanted = [tensor is not None for tensor in arguments[:10]] + [False]  # lengths have no gradient
    assert len(backward(*arguments, output, saved, output, written, wanted)) == sum(wanted)
    for bad in (
        (output[1:], saved, output, written, wanted),
        (output, saved, output[:, 1:], written, wanted),
        (output, saved, output, written.float(), wanted),
        (output, saved, output, written, wanted[1:]),
        (output, saved, output, written, [True] * 10 + [False]),
        (output, saved, output, written, [*wanted[:-1], True]),
    ):
        with pytest.raises(ValueError, match="expected"):
            backward(*arguments, *bad)
    for bad in (saved[1:], saved.float()):
        with pytest.raises(RuntimeError, match="saved: expected"):
            backward(*arguments, output, bad, output, written, wanted)
    for name, bad in (("output", (None, saved)), ("saved", (output, None))):
        with pytest.raises(TypeError, match=f"{name}: expected a tensor, got NoneType"):
            backward(*arguments, *bad, output, written, wanted)


@pytest.mark.parametrize("position", [0, 1])
def test_an_operator_needs_its_tensors(make_problem, kernel, position):
    arguments = list(arguments_of(make_problem(a0="dense")))
    arguments[position] = None
    with pytest.raises(TypeError, match="expected a tensor, got NoneType"):
        OPERATORS[kernel](*arguments)


def test_vmap_over_stacked_parameters(make_problem, assert_all_close, kernel, timing, a0):
    """Values and gradients of each are those it has alone; lengths are the same for all."""
    problems = [make_problem(timing=timing, a0=a0, seed=seed) for seed in (1, 2, 3)]
    leaves = {
        name: torch.stack([problem.leaves()[name].detach() for problem in problems]) for name in problems[0].leaves()
    }
    batch, steps, width = leaves["inputs"].shape[1:]
    cotangents = problems[0].draw(11, batch, steps, width), problems[0].draw(12, batch, width, width)

    def loss(leaves):
        output, final = problems[0].run(leaves, kernel)
        return (output * cotangents[0]).sum() + (final * cotangents[1]).sum(), (output, final)

    grads, values = torch.func.vmap(torch.func.grad(loss, has_aux=True))(leaves)
    outside = torch.func.grad(lambda leaves: torch.func.vmap(loss)(leaves)[0].sum())(leaves)
    assert_all_close(outside, grads, 1e-12)
    for i in range(len(problems)):
        alone = {name: leaf[i].clone().requires_grad_() for name, leaf in leaves.items()}
        expected, (output, final) = loss(alone)
        expected = torch.autograd.grad(expected, list(alone.values()))
        assert_all_close(
            {"output": values[0][i], "final": values[1][i], **{name: grad[i] for name, grad in grads.items()}},
            {"output": output, "final": final, **dict(zip(leaves, expected, strict=True))},
            1e-12,
        )


def test_vmap_over_the_derivatives_operator(make_problem, kernel):
    *arguments, _, _ = arguments_of(make_problem(a0="dense"))
    output, written, saved = OPERATORS[kernel](*arguments, True, True)
    backward = getattr(torch.ops.contextual_rnn, f"fast_weights_{kernel}_backward").default
    wanted = [tensor is not None for tensor in arguments[:10]] + [False]

    def grads(weight):
        return backward(arguments[0], weight, *arguments[2:], output, saved, output, written, wanted)

    weights = torch.stack([arguments[1], 2 * arguments[1]]).detach()
    for mapped, first, second in zip(torch.func.vmap(grads)(weights), *map(grads, weights), strict=True):
        assert torch.equal(mapped, torch.stack([first, second]))


def test_vmap_over_the_inputs_alone(make_problem, kernel):
    problem = make_problem(a0="zero", norm="plain")
    leaves = problem.leaves()
    inputs = problem.draw(40, 4, *leaves["inputs"].shape)
    mapped = torch.func.vmap(lambda x: problem.run(leaves | {"inputs": x}, kernel)[0])(inputs)
    expected = [problem.run(leaves | {"inputs": x}, kernel)[0] for x in inputs]
    torch.testing.assert_close(mapped, torch.stack(expected))


def test_functional_gradients(make_problem, assert_all_close, kernel, timing, a0):
    problem = make_problem(timing=timing, a0=a0, with_lengths=True, learned=True)

    def loss(leaves):
        output, final = problem.run(leaves, kernel)
        return (output * problem.draw(11, *output.shape)).sum() + (final * problem.draw(12, *final.shape)).sum()

    grads = torch.func.grad(loss)({name: leaf.detach() for name, leaf in problem.leaves().items()})
    expected = problem.evaluate(kernel)
    assert_all_close(grads, {name: expected[f"gradient of {name}"] for name in grads}, 1e-12)


def test_the_operator_refuses_to_differentiate_twice(make_problem, kernel):
    problem = make_problem()
    leaves = {name: leaf.detach() for name, leaf in problem.leaves().items()}

    def slope(inputs):
        return torch.func.grad(lambda x: problem.run(leaves | {"inputs": x}, kernel)[0].sum())(inputs).sum()

    with pytest.raises(RuntimeError, match="twice"):
        torch.func.grad(slope)(leaves["inputs"])


@pytest.mark.parametrize("low_rank", [False, True])
def test_autocast_runs_in_the_dtype_of_the_weights(make_problem, backend, low_rank):
    problem = make_problem(a0="low_rank" if low_rank else "dense", norm="affine", dtype=torch.float32)
    leaves = problem.leaves()
    halved = {
        name: leaf.bfloat16() if name not in ("weight_hh", "norm_weight") else leaf for name, leaf in leaves.items()
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, final = problem.run(halved, backend)
    expected, expected_final = problem.run({name: leaf.float() for name, leaf in halved.items()}, backend)
    assert output.dtype == final.dtype == torch.float32
    assert torch.equal(output, expected)
    assert torch.equal(final, expected_final)


def test_compiles_whole_with_dynamic_shapes(kernel, traceable):
    def run(inputs, weight, h0, left, right, gain, decay, lengths):
        # What precedes and follows must not disturb: views, a changed layout, lengths.
        output, final = fast_weights(
            inputs.transpose(0, 1), weight, h0.sin(), LowRank(left, right), norm_weight=gain, decay=decay,
            timing="wenke2019", return_fast_weights=True, backend=kernel,
        )  # fmt: skip
        return output.cos().sum() + final.square().sum()

    torch._dynamo.reset()
    torch.manual_seed(0)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, steps in ((3, 5), (18, 7), (33, 4)):
        shapes = [(steps, batch, 6), (6, 6), (batch, 6), (batch, 2, 6), (batch, 2, 6), (6,)]
        leaves = [torch.randn(*shape, requires_grad=True) for shape in shapes]
        leaves.append(torch.tensor(0.9, requires_grad=True))
        results = []
        for function in (run, compiled):
            loss = function(*leaves, None)
            results.append([loss, *torch.autograd.grad(loss, leaves)])
        for plain, traced in zip(*results, strict=True):
            torch.testing.assert_close(plain, traced)
        with torch.no_grad():
            torch.testing.assert_close(run(*leaves, None), compiled(*leaves, None))

    graphs = []

    def look(graph, inputs):
        graphs.append(graph.code)
        return graph

    torch.compile(run, fullgraph=True, backend=look)(*leaves, None)
    assert f"fast_weights_{kernel}" in graphs[0], graphs[0]


def test_fake_tensors_leave_nothing_behind(make_problem, kernel):
    """A call under a mode that only pretends must not reach the real one after it through anything that is kept."""
    problem = make_problem(steps=13, a0="zero", norm="plain", dtype=torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        leaves = {name: torch.empty(leaf.shape) for name, leaf in problem.leaves().items()}
        assert fast_weights(**leaves, backend=kernel)[0].shape == (problem.batch, 13, problem.width)
    output, _ = fast_weights(**problem.leaves(), backend=kernel)
    torch.testing.assert_close(output, fast_weights(**problem.leaves(), backend="reference")[0])


def test_export_has_operators_of_pytorch_alone(traceable):
    """What is exported runs where this library is not installed."""
    network = FastWeightsRNN(3, 5, batch_first=True)
    model = ContextualRNN(network, ContextState(fast_weights_spec(network, "low_rank"), torch.nn.Linear(2, 4)))

    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, context):
            return self.model(x, context=context)[0]

    inputs = torch.randn(6, 4, 3), torch.randn(6, 2)
    program = torch.export.export(Outputs().eval(), inputs)
    assert "contextual_rnn" not in {str(node.target).split(".")[0] for node in program.graph.nodes}
    torch.testing.assert_close(program.module()(*inputs), Outputs().eval()(*inputs))


def test_tables_of_decay_do_not_outlive_the_transform_they_were_made_in():
    like, options = torch.zeros(2, 5, 3), FastWeightsOptions(1, 0.4321, 0.5, True, "wenke2019", 1e-5, False)
    torch.func.grad(lambda x: x.sum() * decay_tables(options, 5, x)[0].sum())(like)
    assert not any(map(is_transformed, decay_tables(options, 5, like)))


@pytest.mark.parametrize("wanted", ["the output", "a gradient", "a gradient by torch.func"])
@pytest.mark.parametrize("a0", ["zero", "dense", "low_rank"])
def test_make_fx_puts_no_results_into_its_program_as_constants(a0, wanted):
    """It sees operators alone: what a kernel wrote without one would be the same for every input."""
    torch.manual_seed(0)
    network = FastWeightsRNN(3, 5, dtype=torch.float64)
    hx = FreeState(fast_weights_spec(network, a0).like(network.bias))(batch_size=2)

    def loss(x):
        return network(x, hx)[0].sin().sum()

    functions = {
        "the output": loss,
        "a gradient": lambda x: torch.autograd.grad(loss(x := x.detach().requires_grad_()), x)[0],
        "a gradient by torch.func": torch.func.grad(loss),
    }
    function, (x, other) = functions[wanted], torch.randn(2, 4, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(make_fx(function)(x)(other), function(other))
