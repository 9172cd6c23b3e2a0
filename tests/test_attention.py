"""AdditiveAttention: the equation, masks and lengths, what is masked stays out, and bad input by name."""

import pytest
import torch
from torch import nn

from contextual_rnn import AdditiveAttention

B, T, S, Q, K, V, H = 3, 4, 5, 6, 7, 8, 9


def module():
    torch.manual_seed(0)
    return AdditiveAttention(Q, K, H).double()


def tensors():
    torch.manual_seed(1)
    return [torch.randn(shape, dtype=torch.float64) for shape in ((B, T, Q), (B, S, K), (B, S, V))]


def test_the_equation_step_by_step():
    attention, (query, keys, values) = module(), tensors()
    w, u, b, v = attention.query.weight, attention.key.weight, attention.key.bias, attention.score.weight[0]
    nn.init.normal_(b)
    output, weights = attention(query, keys, values)
    for i in range(B):
        for t in range(T):
            scores = torch.stack([v @ torch.tanh(w @ query[i, t] + u @ keys[i, s] + b) for s in range(S)])
            expected = scores.exp() / scores.exp().sum()
            torch.testing.assert_close(weights[i, t], expected)
            torch.testing.assert_close(output[i, t], sum(expected[s] * values[i, s] for s in range(S)))


def test_one_query_is_a_sequence_of_one_and_keys_are_the_values_unless_given():
    attention, (query, keys, _) = module(), tensors()
    one, many = attention(query[:, 0], keys), attention(query[:, :1], keys, keys)
    assert one.output.shape == (B, K)
    assert one.weights.shape == (B, S)
    torch.testing.assert_close(one.output, many.output[:, 0])
    torch.testing.assert_close(one.weights, many.weights[:, 0])


@pytest.mark.parametrize("how", ["lengths", "mask", "both"])
def test_what_takes_no_part_is_as_if_it_were_not_there(how):
    attention, (query, keys, values) = module(), tensors()
    lengths = torch.tensor([5, 1, 3])
    mask = torch.arange(S) < lengths[:, None]
    if how == "both":  # each hides something that the other shows
        hidden = {"lengths": torch.tensor([5, 2, 3]), "mask": mask.clone()}
        hidden["mask"][2, 3:] = True
    else:
        hidden = {"lengths": lengths} if how == "lengths" else {"mask": mask}
    padded = [tensor.masked_fill(~mask[..., None], torch.nan).requires_grad_() for tensor in (keys, values)]
    query.requires_grad_()
    output, weights = attention(query, *padded, **hidden)
    gradients = torch.autograd.grad(output.square().sum(), [query, *padded, *attention.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (weights[~mask[:, None].expand_as(weights)] == 0).all()
    for i, length in enumerate(lengths):
        alone = attention(query[i : i + 1], keys[i : i + 1, :length], values[i : i + 1, :length])
        torch.testing.assert_close(output[i : i + 1], alone.output)
        torch.testing.assert_close(weights[i : i + 1, :, :length], alone.weights)
        assert (gradients[1][i, length:] == 0).all()
        assert (gradients[2][i, length:] == 0).all()


def test_a_mask_may_have_holes():
    attention, (query, keys, _) = module(), tensors()
    mask = torch.tensor([[True, False, True, False, True]] * B)
    torch.testing.assert_close(attention(query, keys, mask=mask).output, attention(query, keys[:, ::2]).output)


def test_gradients():
    attention, (query, keys, values) = module(), tensors()
    for tensor in (query, keys, values):
        tensor.requires_grad_()
    lengths = torch.tensor([5, 2, 3])
    assert torch.autograd.gradcheck(lambda *a: attention(*a, lengths=lengths), (query, keys, values))


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "query: expected a tensor, got list", {"query": [1.0]}),
        (ValueError, r"query: expected shape \(3, 6\) or \(3, T, 6\), got \(2, 4, 6\)", {"query": torch.ones(2, T, Q)}),
        (ValueError, r"query: .* got \(3, 4, 5\)", {"query": torch.ones(B, T, 5)}),
        (ValueError, r"query: .* got \(6,\)", {"query": torch.ones(Q)}),
        (ValueError, r"keys: expected shape \(B, S, 7\), got \(3, 5, 6\)", {"keys": torch.ones(B, S, 6)}),
        (ValueError, r"keys: .* got \(5, 7\)", {"keys": torch.ones(S, K)}),
        (ValueError, r"keys: expected at least one key .* got shape \(3, 0, 7\)", {"keys": torch.ones(B, 0, K)}),
        (ValueError, r"values: expected shape \(3, 5, V\), got \(3, 4, 8\)", {"values": torch.ones(B, 4, V)}),
        (ValueError, r"lengths: expected shape \(3,\), got \(2,\)", {"lengths": torch.tensor([1, 2])}),
        (ValueError, "lengths: expected 1 to 5, got 0 to 6", {"lengths": torch.tensor([0, 1, 6])}),
        (TypeError, "lengths: expected a tensor of int64", {"lengths": [5, 5, 5]}),
        (TypeError, "mask: expected a tensor of bool, got torch.float32", {"mask": torch.ones(B, S)}),
        (ValueError, r"mask: expected shape \(3, 5\), got \(5, 3\)", {"mask": torch.ones(S, B, dtype=torch.bool)}),
        (ValueError, "mask: .* nothing in row 1", {"mask": torch.tensor([[True] * S, [False] * S, [True] * S])}),
    ],
)
def test_bad_input_is_named(error, message, change):
    arguments = {"query": torch.ones(B, T, Q), "keys": torch.ones(B, S, K)} | change
    with pytest.raises(error, match=message):
        AdditiveAttention(Q, K, H)(**arguments)


@pytest.mark.parametrize("name", ["query_size", "key_size", "hidden_size"])
def test_sizes_are_checked(name):
    sizes = {"query_size": Q, "key_size": K, "hidden_size": H}
    with pytest.raises(ValueError, match=f"{name}: expected a positive int, got 0"):
        AdditiveAttention(**sizes | {name: 0})
    with pytest.raises(TypeError, match=name):
        AdditiveAttention(**sizes | {name: 2.0})


def test_it_compiles_as_one_graph():
    attention = AdditiveAttention(Q, K, H)
    query, keys = torch.randn(B, T, Q), torch.randn(B, S, K)
    for hidden in ({"lengths": torch.tensor([5, 2, 3])}, {"mask": torch.rand(B, S) < 2}):
        compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(query, keys, **hidden).output, attention(query, keys, **hidden).output)


def test_its_layers_are_made_where_and_as_they_are_asked_for():
    attention = AdditiveAttention(Q, K, H, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in attention.parameters()} == {("meta", torch.float64)}
    with pytest.raises(ValueError, match="dtype: expected one of floats"):
        AdditiveAttention(Q, K, H, dtype=torch.int64)
