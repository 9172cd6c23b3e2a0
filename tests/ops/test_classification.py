"""Loss and gradients in one native call, against the reference and PyTorch's own functions in float64."""

import itertools

import pytest
import torch
from torch.nn import functional

from contextual_rnn import LowRank
from contextual_rnn.ops import fast_weights
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.classification import Classification, Head, Heads, Parameters
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions

pytestmark = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
VARIANTS = ["baseline", "avx2", "avx512"]
AVAILABLE = VARIANTS[: VARIANTS.index(cpu.instruction_set() or "baseline") + 1]
OPTIONS = FastWeightsOptions(1, 0.9, 0.4, True, "wenke2019", 1e-5, False)
SIZES = [  # batch, steps, units, tokens, embedding, hidden units, classes
    (1, 1, 1, 1, 1, 1, 1),
    (37, 9, 5, 7, 3, 4, 3),
    (70, 6, 20, 11, 33, 18, 17),
    (9, 3, 70, 21, 4, 5, 6),
]


class Problem:
    """Random parameters and initial states, of another dtype than float64 where asked for."""

    def __init__(self, size, kind="none", named=False, bias=True, norm=True, dtype=torch.float64):
        self.generator = torch.Generator().manual_seed(0)
        batch, steps, width, tokens, inputs, hidden, classes = size
        rows = 4 if named else batch
        scale = 0.4 if norm else 0.1  # without layer norm states grow fast

        def draw(*shape):
            values = scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)
            return values.to(dtype).requires_grad_()

        def below(end, *shape):
            return torch.randint(end, shape, generator=self.generator)

        vectors = [draw(width) if norm else None for _ in range(2)]
        self.parameters = Parameters(
            draw(tokens, inputs), draw(width, inputs), draw(width) if bias else None, draw(width, width), *vectors,
            draw(hidden, width), draw(hidden), draw(classes, hidden), draw(classes),
        )  # fmt: skip
        self.h0 = draw(rows, width)
        self.a0 = {
            "none": lambda: None,
            "dense": lambda: draw(rows, width, width),
            "shared": lambda: draw(1, width, width).expand(rows, -1, -1),
            "low rank": lambda: LowRank(draw(rows, 3, width), draw(rows, 3, width)),
        }[kind]()
        self.tokens, self.targets = below(tokens, batch, steps), below(classes, batch)
        self.states = below(rows, batch) if named else None

    def leaves(self):
        matrices = list(self.a0) if isinstance(self.a0, LowRank) else [self.a0]
        return [leaf for leaf in (*self.parameters, self.h0, *matrices) if leaf is not None]

    def natively(self, options):
        grads = Parameters(*(None if p is None else torch.full_like(p, torch.nan) for p in self.parameters))
        run = Classification(self.parameters, grads, options)
        loss, found, initial = run(self.tokens, self.targets, self.h0, self.a0, self.states)
        assert found is grads
        return [loss.double(), *(grad for grad in (*grads, *initial) if grad is not None)]

    def loss(self, options):
        p, h0, a0 = self.parameters, self.h0, self.a0
        if self.states is not None:
            h0 = h0[self.states]
            if a0 is not None:
                a0 = LowRank(*(f[self.states] for f in a0)) if isinstance(a0, LowRank) else a0[self.states]
        inputs = functional.linear(functional.embedding(self.tokens, p.embedding), p.weight_ih, p.bias)
        output, _ = fast_weights(
            inputs, p.weight_hh, h0, a0, norm_weight=p.norm_weight, norm_bias=p.norm_bias,
            layer_norm=options.layer_norm, inner_steps=options.inner_steps, decay=options.decay, rate=options.rate,
            timing=options.timing, eps=options.eps, backend="reference",
        )  # fmt: skip
        hidden = torch.relu(functional.linear(output[:, -1], p.hidden_weight, p.hidden_bias))
        logits = functional.linear(hidden, p.readout_weight, p.readout_bias)
        return functional.cross_entropy(logits, self.targets)

    def by_autograd(self, options):
        loss = self.loss(options)
        return [loss.detach(), *torch.autograd.grad(loss, self.leaves(), materialize_grads=True, allow_unused=True)]


def with_heads(problem, kind, options=OPTIONS, of_first_token=False):
    """The loss and all gradients where linear layers make the initial states, natively and by autograd."""
    p = problem.parameters
    (tokens, inputs), width = p.embedding.shape, len(p.weight_hh)
    sizes = {"none": {}, "dense": {"a0": width**2}, "low rank": {"left": 3 * width, "right": 3 * width}}[kind]

    def layer(size):
        weights = (torch.randn(*shape, generator=problem.generator).double() for shape in ((size, inputs), (size,)))
        return Head(*((0.3 * weight).requires_grad_() for weight in weights))

    heads = Heads(**{name: layer(size) for name, size in {"h0": width, **sizes}.items()})
    contexts = -(-tokens // 2)
    states = torch.randint(contexts, (len(problem.tokens),), generator=problem.generator)
    made = [functional.linear(p.embedding[:contexts], *head) for head in heads if head is not None]
    problem.h0, problem.states = made[0], states
    if of_first_token:
        problem.tokens[:, 0] = states
    if kind == "dense":
        problem.a0 = made[1].unflatten(1, (width, width))
    if kind == "low rank":
        problem.a0 = LowRank(*(part.unflatten(1, (3, width)) for part in made[1:]))
    of_heads = [tensor for head in heads if head is not None for tensor in head]
    loss = problem.loss(options)
    expected = [loss.detach(), *torch.autograd.grad(loss, [leaf for leaf in (*p, *of_heads) if leaf is not None])]
    grads = Parameters(*(None if tensor is None else torch.full_like(tensor, torch.nan) for tensor in p))
    head_grads = Heads(
        *(None if head is None else Head(*(torch.full_like(t, torch.nan) for t in head)) for head in heads),
    )
    run = Classification(p, grads, options, heads, head_grads, contexts)
    value, _, initial = run(problem.tokens, problem.targets, states=None if of_first_token else states)
    assert initial == [None, None, None, None]
    of_heads = [tensor for head in head_grads if head is not None for tensor in head]
    return [value, *(g for g in grads if g is not None), *of_heads], expected


def assert_agree(found, expected, tolerance):
    assert len(found) == len(expected)
    assert all(theirs.isfinite().all() for theirs in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("variant", AVAILABLE)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_loss_and_every_gradient(monkeypatch, variant, size):
    monkeypatch.setattr(cpu, "instruction_set", lambda: variant)
    forms = itertools.product(["none", "dense", "shared", "low rank"], [False, True], ["ba2016", "wenke2019"], [1, 2])
    for kind, named, timing, inner_steps in forms:
        for plain in (False, True):
            problem = Problem(size, kind, named, bias=not plain, norm=not plain)
            options = FastWeightsOptions(inner_steps, 0.9, 0.4, not plain, timing, 1e-5, False)
            assert_agree(problem.natively(options), problem.by_autograd(options), 1e-10)


@pytest.mark.parametrize("variant", AVAILABLE)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["none", "dense", "low rank"])
def test_states_that_layers_make_of_embeddings(monkeypatch, variant, size, kind):
    monkeypatch.setattr(cpu, "instruction_set", lambda: variant)
    forms = itertools.product(["ba2016", "wenke2019"], [1, 2], [False, True], [False, True])
    for timing, inner_steps, plain, of_first_token in forms:
        options = FastWeightsOptions(inner_steps, 0.9, 0.4, not plain, timing, 1e-5, False)
        problem = Problem(size, bias=not plain, norm=not plain)
        assert_agree(*with_heads(problem, kind, options, of_first_token), 1e-10)


def test_states_are_given_or_made():
    problem = Problem(SIZES[1], "dense", named=True)
    grads = Parameters(*(torch.empty_like(tensor) for tensor in problem.parameters))
    with pytest.raises(ValueError, match="h0: expected initial states, or heads"):
        Classification(problem.parameters, grads, OPTIONS)(problem.tokens, problem.targets, states=problem.states)


def test_float32():
    """A few hundred roundings of the largest entry."""
    size = SIZES[2]
    expected = Problem(size, "dense", True).by_autograd(OPTIONS)
    assert_agree(Problem(size, "dense", True, dtype=torch.float32).natively(OPTIONS), expected, 1e-4)


@pytest.mark.parametrize("variant", AVAILABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_of_any_probability(monkeypatch, variant, dtype):
    """From nearly one to the smallest number, to a few roundings each; those of float32 end at exp(-87)."""
    monkeypatch.setattr(cpu, "instruction_set", lambda: variant)
    classes = 60
    problem = Problem((18, 2, 3, 4, 2, 3, classes), dtype=dtype)
    logits = -1.375 * torch.arange(classes).flip(0)  # exact, so that what is found is the error of exp
    with torch.no_grad():
        problem.parameters.readout_weight.zero_()
        problem.parameters.readout_bias.copy_(logits)
        problem.targets.fill_(classes - 1)
    found = problem.natively(OPTIONS)[1 + Parameters._fields.index("readout_bias")]
    expected = torch.softmax(logits.double(), 0)
    assert expected.min() < 1e-34
    close = {"rtol": 10 * torch.finfo(dtype).eps, "atol": 0}
    torch.testing.assert_close(found[:-1].double(), expected[:-1], **close)
    torch.testing.assert_close(-found[-1].double(), 1 - expected[-1], rtol=0, atol=close["rtol"])


def test_a_zero_state():
    problem = Problem(SIZES[2], "low rank", True)
    with torch.no_grad():
        problem.h0.zero_()
    assert_agree(problem.natively(OPTIONS), problem.by_autograd(OPTIONS), 1e-10)


@pytest.mark.parametrize("made", [False, True], ids=["given", "made"])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, made):
    monkeypatch.setattr(cpu, "_WORTH_THREADS", 0)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        problem = Problem(SIZES[2], "none" if made else "dense")
        results.append(with_heads(problem, "low rank")[0] if made else problem.natively(OPTIONS))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*results, strict=True))


def test_refuses_a_first_token_that_has_no_state():
    problem = Problem((5, 3, 4, 11, 2, 3, 11))
    problem.tokens[:, 0] = torch.tensor([0, 5, 6, 1, 2])
    layer = Head(*(torch.zeros(*shape, dtype=torch.float64) for shape in ((4, 2), (4,))))
    run = Classification(problem.parameters, problem.parameters, OPTIONS, Heads(layer), Heads(layer), 6)
    with pytest.raises(ValueError, match="states: expected 0 to 5"):
        run(problem.tokens, problem.targets)


@pytest.mark.parametrize("name", ["tokens", "targets", "states"])
@pytest.mark.parametrize("value", [-1, 11])
def test_refuses_what_is_out_of_range(name, value):
    problem = Problem((5, 3, 4, 11, 2, 3, 11), named=True)
    getattr(problem, name)[..., -1] = value
    with pytest.raises(ValueError, match=f"{name}: expected 0 to"):
        problem.natively(OPTIONS)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokens", lambda tensor: tensor[:, 0]),
        ("tokens", lambda tensor: tensor.int()),
        ("tokens", lambda tensor: tensor.repeat(1, 9)),
        ("targets", lambda tensor: tensor[1:]),
        ("h0", lambda tensor: tensor[1:]),
        ("h0", lambda tensor: tensor.float()),
        ("a0", lambda tensor: tensor[:, 1:]),
    ],
)
def test_refuses_what_does_not_fit(name, change):
    problem = Problem((5, 3, 4, 11, 2, 3, 11), "dense")
    setattr(problem, name, change(getattr(problem, name)))
    with pytest.raises(ValueError, match=f"{name}: expected"):
        problem.natively(OPTIONS)


@pytest.mark.parametrize("name", Parameters._fields)
def test_refuses_parameters_that_do_not_fit(name):
    problem = Problem((5, 3, 4, 11, 2, 3, 11))
    for change in (lambda tensor: tensor[..., 1:], lambda tensor: tensor.float(), lambda tensor: None):
        wrong = problem.parameters._replace(**{name: change(getattr(problem.parameters, name))})
        with pytest.raises(ValueError, match=f"{name}: expected"):
            Classification(problem.parameters, wrong, OPTIONS)


def test_refuses_heads_that_do_not_fit():
    """A weight or bias of another shape, one without its gradient, and forms of A(0) that exclude each other."""
    problem = Problem((5, 3, 4, 11, 2, 3, 11))
    p = problem.parameters

    def layer(size, inputs=2):
        return Head(torch.zeros(size, inputs, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))

    good = layer(4)
    for wrong, message in [
        (Heads(Head(good.bias, good.bias)), "h0: expected contiguous"),
        (Heads(Head(good.weight, good.weight)), "h0: expected contiguous"),
        (Heads(layer(5)), "h0: expected contiguous"),
        (Heads(good, left=layer(9), right=layer(9)), "left: expected contiguous"),
        (Heads(good, left=layer(8), right=layer(12)), "right: expected contiguous"),
        (Heads(good, left=layer(8)), "heads: expected left and right together"),
        (Heads(good, layer(16), layer(8), layer(8)), "heads: expected left and right together"),
    ]:
        with pytest.raises(ValueError, match=message):
            Classification(p, p, OPTIONS, wrong, wrong, 5)
    with pytest.raises(ValueError, match="a0: expected contiguous"):
        Classification(p, p, OPTIONS, Heads(good, layer(16)), Heads(good), 5)
    with pytest.raises(ValueError, match="expected both or none"):
        Classification(p, p, OPTIONS, Heads(good), None, 5)
    with pytest.raises(ValueError, match="contexts: expected 1 to the 11 tokens"):
        Classification(p, p, OPTIONS, Heads(good), Heads(good), 12)


@pytest.mark.parametrize("kind", ["sparse", "nested", "meta", "half", "freed", "part", "negated", "strided"])
@pytest.mark.parametrize("name", ["embedding", "weight_hh", "bias", "readout_weight"])
def test_parameters_of_another_kind(kind, name):
    """They are read at their address."""
    problem = Problem(SIZES[1], dtype=torch.float32)
    tensor = getattr(problem.parameters, name).detach()
    other = {
        "sparse": lambda: tensor.to_sparse(),
        "nested": lambda: torch.nested.nested_tensor(list(tensor)) if tensor.ndim > 1 else tensor.to_sparse(),
        "meta": lambda: tensor.to("meta"),
        "half": lambda: tensor.half(),
        "freed": tensor.clone,
        "part": lambda: torch.stack([tensor, tensor])[1],
        "negated": lambda: torch._neg_view(-tensor),
        "strided": lambda: torch.stack([tensor, tensor], -1)[..., 0],
    }[kind]()
    if kind in ("freed", "part"):
        other.untyped_storage().resize_(0)
    with pytest.raises((TypeError, ValueError), match=f"^({name}|weight_ih): expected .*got "):
        Classification(problem.parameters._replace(**{name: other}), None, OPTIONS)


def test_parameters_of_no_dtype_of_the_kernel():
    for dtype in (torch.float16, torch.int64):
        parameters = Parameters(*(p.detach().to(dtype) for p in Problem(SIZES[1]).parameters))
        with pytest.raises((TypeError, ValueError), match=r"^embedding: expected .*got "):
            Classification(parameters, None, OPTIONS)


@pytest.mark.parametrize("of_grads", [False, True])
def test_memory_that_moved_is_not_used(of_grads):
    problem = Problem(SIZES[1])
    grads = Parameters(*(torch.empty_like(p) for p in problem.parameters))
    run = Classification(problem.parameters, grads, OPTIONS)
    moved = (grads if of_grads else problem.parameters).weight_ih
    moved.data = moved.data.clone()
    with pytest.raises(ValueError, match=r"^parameters: expected tensors that stay where they are"):
        run(problem.tokens, problem.targets, problem.h0)


@pytest.mark.parametrize("name", ["tokens", "targets", "states", "h0"])
def test_inputs_of_another_kind(name):
    problem = Problem(SIZES[1], named=True)
    run = Classification(problem.parameters, None, OPTIONS)
    given = {name: getattr(problem, name) for name in ("tokens", "targets", "h0", "states")}
    tensor = given[name].detach()
    freed, part = tensor.clone(), torch.stack([tensor, tensor])[1]
    for each in (freed, part):
        each.untyped_storage().resize_(0)
    kinds = [tensor.to_sparse(), tensor.to("meta"), torch.nested.nested_tensor([*tensor]), tensor.tolist(), freed, part]
    for other in kinds:
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*got "):
            run(**given | {name: other})
