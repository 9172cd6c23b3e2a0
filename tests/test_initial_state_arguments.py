"""What the initial states refuse, and that they say which argument it was."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    LeafwiseState,
    NormalState,
    SumState,
    state_spec,
)

LSTM, H, ONE = nn.LSTM(3, 5), torch.zeros(1, 5), torch.zeros(1, 2)


def net():
    return nn.Linear(2, 6)


# No number at all, and numbers outside the range, for every argument that takes a number.
NO_NUMBERS = ["0.1", None, True, torch.tensor(0.1), [0.1], 0.1j]
NUMBERS = {
    "noise": (lambda value: FreeState(LSTM, noise=value), "a finite number of at least 0", [-0.1]),
    "scale": (lambda value: NormalState(LSTM, net(), value, min_scale=0.1), "a finite number above min_scale (0.1)",
              [-1.0, 0.0, 0.1]),
    "min_scale": (lambda value: NormalState(LSTM, net(), min_scale=value), "a finite number of at least 0", [-0.1]),
    "prior_mean": (lambda value: NormalState(LSTM, net()).kl(ONE, prior_mean=value), "a finite number", []),
    "prior_scale": (lambda value: NormalState(LSTM, net()).kl(ONE, prior_scale=value),
                    "a positive, finite number", [-1.0, 0.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_or_out_of_range_is_refused(name):
    call, expected, outside = NUMBERS[name]
    for error, values in ((TypeError, NO_NUMBERS), (ValueError, [*outside, math.nan, math.inf, -math.inf])):
        for value in values:
            with pytest.raises(error, match=re.escape(f"{name}: expected {expected}, got {value!r}")):
                call(value)


def test_numbers_of_any_kind_are_taken():
    assert FreeState(LSTM, noise=Fraction(1, 4)).noise == 0.25
    assert NormalState(LSTM, net(), 2, min_scale=np.float32(0.5)).min_scale == 0.5
    assert ConstantState(LSTM, np.float32(0.5))()[0].eq(0.5).all()
    assert FreeState(LSTM, value=np.int64(2))()[1].eq(2).all()


@pytest.mark.parametrize("kind", [ConstantState, lambda network, value: FreeState(network, value=value)])
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (H, TypeError, r"value: expected \(h of shape .*, c of shape .*\), got a tensor of shape \(1, 5\)"),
        ("0", TypeError, r"value: expected \(h of shape .*\), got str"),
        ((H, "0"), TypeError, "value: expected .*, got str for leaf 'c'"),
        ((H, None), TypeError, "value: expected .*, got None for leaf 'c'"),
        ((H, H, H), TypeError, "value: expected"),
        ({"h": H, "c": H}, TypeError, "value: expected"),
        ((H, torch.zeros(1, 6)), ValueError, r"value: expected leaf 'c' of shape .*, got \(1, 6\)"),
        ((torch.zeros(2, 5), H), ValueError, r"value: expected leaf 'h' of shape .*, got \(2, 5\)"),
        ((H[:, None], H[:, None]), ValueError, r"value: expected leaf 'h' of one example, \(1, 5\), got \(1, 1, 5\)"),
        ((H, H.long()), TypeError, "value: expected leaf 'c' of floats, got torch.int64"),
        ((H, H.bool()), TypeError, "value: expected leaf 'c' of floats, got torch.bool"),
        (True, TypeError, "value: expected a finite number, got True"),
        (math.nan, ValueError, "value: expected a finite number, got nan"),
        (-math.inf, ValueError, "value: expected a finite number, got -inf"),
        (1e39, ValueError, r"value: expected a number that leaf 'h' of torch.float32 can hold, got \de"),
        ((H, H.to_sparse()), ValueError, "value: expected a strided tensor, got one of layout torch.sparse_coo"),
        ((H, torch.nested.nested_tensor([H[0]])), ValueError, "value: expected a strided tensor, got a nested one"),
        ((H, H.to("meta")), ValueError, "value: expected leaf 'c' with numbers that can be read, got one on meta"),
        ((H, H * math.nan), ValueError, "value: expected finite numbers in leaf 'c', got NaN or infinity"),
        ((H, H.double() + 1e300), ValueError, "value: expected finite numbers in leaf 'c', got NaN or infinity"),
    ],
)
def test_values_of_another_structure_or_shape_are_refused(kind, value, error, words):
    with pytest.raises(error, match=f"^{words}"):
        kind(LSTM, value)


BAD_ARGUMENTS = [
    (lambda: ConstantState(nn.Linear(3, 5)), TypeError, "network: expected one with a registered state spec"),
    (lambda: ContextState(LSTM, net(), features=0), ValueError, "features: expected a positive int"),
    (lambda: ContextState(LSTM, net(), features=True), TypeError, "features: expected a positive int"),
    (lambda: NormalState(LSTM, FreeState(LSTM), scale_from_context=True), ValueError, "scale_from_context: expected"),
    (lambda: NormalState(LSTM, net()).log_prob(H, torch.zeros(1, 2)), TypeError, "state: expected"),
    (lambda: NormalState(LSTM, net()).log_prob((H[:, None].expand(1, 4, 5),) * 2, torch.zeros(3, 2)), ValueError,
     "state: expected leaf .h. of 3 rows or a multiple, got 4"),
    (lambda: NormalState(LSTM, net()).log_prob((H, H[:, :4])), ValueError, "state: expected leaf 'c' of shape"),
    (lambda: ContextState(LSTM, net())(), ValueError, "context: expected .* got None"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2), 4), ValueError, "context: expected a batch of 4, .* got 3"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 7)), ValueError, r"context: .* \(3, 7\)"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2).double()), ValueError, "context: .*float64"),
    (lambda: ContextState(LSTM, net())(torch.zeros(3, 2, device="meta")), ValueError, "context: .* on meta"),
    (lambda: ContextState(LSTM, nn.Embedding(4, 2))(torch.tensor([4])), ValueError, "context: the context network"),
    (lambda: ContextState(LSTM, nn.Embedding(4, 2))(torch.tensor([0.5])), ValueError, "context: .*float32"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2, 2)), ValueError, "context: expected features of shape"),
    (lambda: ContextState(LSTM, net())(torch.randn(3, 2), batched=False), ValueError, "context: expected one unb"),
    (lambda: ContextState(LSTM, nn.Identity(), features=3)(torch.randn(3, 2)), ValueError, "features: expected"),
    (lambda: ContextState(LSTM, nn.Identity(), features=2)(H.double()[:, :2]), ValueError, "context: .*float64"),
    (lambda: FreeState(LSTM)(batch_size=True), TypeError, "batch_size: expected"),
    (lambda: FreeState(LSTM)(batch_size="4"), TypeError, "batch_size: expected"),
    (lambda: FreeState(LSTM)(batch_size=-1), ValueError, "batch_size: expected"),
    (lambda: FreeState(LSTM).sample(batch_size=2.0), TypeError, "batch_size: expected"),
    (lambda: FreeState(LSTM).sample(num_samples=0), ValueError, "num_samples: expected"),
    (lambda: FreeState(LSTM).sample(num_samples=True), TypeError, "num_samples: expected"),
    (lambda: NormalState(LSTM, net()).sample(), ValueError, "context: expected .* got None"),
    (lambda: NormalState(LSTM, net()).sample(torch.zeros(3, 2), batch_size=4), ValueError, "context: expected a batch"),
    (lambda: NormalState(LSTM, net()).kl(torch.zeros(3, 2), -1), ValueError, "batch_size: expected an int of at"),
    (lambda: NormalState(LSTM, net()).distribution(torch.zeros(3, 2), 2.5), TypeError, "batch_size: expected"),
    (lambda: NormalState(LSTM, FreeState(LSTM), features=3), ValueError, "features: expected only with a context net"),
    (lambda: NormalState(LSTM, FreeState(LSTM), zero_init=True), ValueError, "zero_init: expected only with a context"),
    (lambda: NormalState(LSTM, FreeState(LSTM), activation=torch.tanh), ValueError, "activation: expected only with a"),
    (lambda: NormalState(LSTM, torch.tanh), TypeError, "encoder: expected a context network"),
    (lambda: ContextState(LSTM, net(), activation="tanh"), TypeError, "activation: expected a function"),
    (lambda: ContextState(LSTM, net(), activation=nn.Tanh), TypeError,
     "activation: expected a function or None, got the class Tanh"),
    (lambda: ContextState(LSTM, net(), activation=torch.sum)(torch.randn(3, 2)), ValueError,
     r"activation: expected shape \(3, 1, 5\) kept, got \(\)"),
    (lambda: FreeState(LSTM)(batch_size=4, batched=False), ValueError, "batch_size: expected None with batched=False"),
    (lambda: FreeState(LSTM)(generator=3), TypeError, "generator: expected a torch.Generator or None, got int"),
    (lambda: FreeState(LSTM).sample(generator=3), TypeError, "generator: expected a torch.Generator or None, got int"),
    (lambda: NormalState(LSTM, net()).distribution(torch.zeros(3, 2), 4), ValueError, "context: expected a batch of 4"),
    (lambda: NormalState(LSTM, net()).log_prob((H, H)), ValueError, "context: expected .* got None"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD_ARGUMENTS, ids=[words for _, _, words in BAD_ARGUMENTS])
def test_bad_arguments_are_refused(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()


def test_features_of_another_dtype_are_refused_on_a_device_without_autocast():
    state = ContextState(nn.LSTM(3, 5, device="meta"), nn.Identity(), features=2)
    with pytest.raises(ValueError, match=r"^context: expected features of torch.float32 on meta, got torch.float64"):
        state(torch.zeros(3, 2, dtype=torch.float64, device="meta"))


C, SPARSE = torch.randn(3, 2), torch.zeros(1, 3, 5).to_sparse()
STATES = {
    "constant": lambda: ConstantState(LSTM),
    "free": lambda: FreeState(LSTM, noise=0.1),
    "context": lambda: ContextState(LSTM, net()),
    "normal": lambda: NormalState(LSTM, net()),
    "normal of one state": lambda: NormalState(LSTM, FreeState(LSTM)),
    "leafwise": lambda: LeafwiseState(
        LSTM, h=ContextState(state_spec(LSTM)["h"], net()), c=FreeState(state_spec(LSTM)["c"])
    ),
    "sum": lambda: SumState([FreeState(LSTM), ContextState(LSTM, net())], [1, 1]),
    "dropout": lambda: ContextDropout(ContextState(LSTM, net())),
}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("flag", ["no", "", 0, 1, np.True_, []], ids=repr)
def test_batched_is_true_false_or_none(kind, flag):
    state = STATES[kind]()
    for call in (lambda: state(C, batched=flag), lambda: state.moments(C, None, flag)):
        with pytest.raises(TypeError, match=r"^batched: expected True or False, got "):
            call()


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize(
    ("size", "error"), [("3", TypeError), (2.0, TypeError), (True, TypeError), (-1, ValueError), (2**63, ValueError)]
)
def test_moments_check_the_batch_size(kind, size, error):
    with pytest.raises(error, match=r"^batch_size: expected an int of at least 0"):
        STATES[kind]().moments(C, size, None)


FLAGS = {
    "zero_init": [lambda flag: ContextState(LSTM, net(), zero_init=flag),
                  lambda flag: NormalState(LSTM, net(), zero_init=flag),
                  lambda flag: NormalState(LSTM, FreeState(LSTM), zero_init=flag)],
    "scale_from_context": [lambda flag: NormalState(LSTM, net(), scale_from_context=flag)],
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_what_is_no_flag_is_refused(name):
    for call in FLAGS[name]:
        for flag in ("no", "", None, 0, 1, [0]):
            with pytest.raises(TypeError, match=f"^{name}: expected True or False, got "):
                call(flag)


BEYOND = {
    "noise": lambda value, lstm: FreeState(lstm, noise=value),
    "scale": lambda value, lstm: NormalState(lstm, FreeState(lstm), value),
    "weights": lambda value, lstm: SumState([FreeState(lstm)], [value]),
    "guidance": lambda value, lstm: ContextDropout(FreeState(lstm), guidance=value),
    "value": lambda value, lstm: FreeState(lstm, value=value),
    "prior_mean": lambda value, lstm: NormalState(lstm.float(), FreeState(lstm)).kl(prior_mean=value * 1e35),
    "prior_scale": lambda value, lstm: NormalState(lstm.float(), FreeState(lstm)).kl(prior_scale=value * 1e35),
}


@pytest.mark.parametrize("name", BEYOND)
def test_numbers_that_the_dtype_cannot_hold_are_refused(name):
    for value, lstm in ((1e39, LSTM), (1e5, nn.LSTM(3, 5, dtype=torch.float16))):
        with pytest.raises(ValueError, match=rf"^{name}: expected a number that .*torch\.float\d\d can hold, got \d"):
            BEYOND[name](value, lstm)
    BEYOND[name](1e3, LSTM)


OF_OTHER_KINDS = [
    (lambda: NormalState(LSTM, net()).log_prob((torch.zeros(1, 3, 5) * math.nan,) * 2, C), ValueError,
     "state: expected numbers in leaf 'h', got NaN"),
    (lambda: NormalState(LSTM, net()).log_prob((SPARSE, SPARSE), C), ValueError, "state: expected a strided tensor"),
    (lambda: NormalState(LSTM, net()).log_prob((torch.zeros(1, 3, 5, dtype=torch.long),) * 2, C), TypeError,
     "state: expected a floating-point tensor of at least 16 bits, got torch.int64"),
    (lambda: NormalState(LSTM, net()).log_prob((torch.zeros(1, 3, 5).to(torch.float8_e5m2),) * 2, C), TypeError,
     "state: expected a floating-point tensor of at least 16 bits, got torch.float8_e5m2"),
    (lambda: NormalState(LSTM, net()).log_prob((torch.zeros(1, 3, 5, device="meta"),) * 2, C), ValueError,
     "state: expected leaf 'h' on cpu, got one on meta"),
    (lambda: ContextState(LSTM, net())(C.to_mkldnn()), ValueError, "context: expected a strided tensor, got .*mkldnn"),
    (lambda: FreeState(LSTM)(None, 3, rows=torch.nested.nested_tensor([torch.tensor([0, 1])])), ValueError,
     "rows: expected a strided tensor, got a nested one"),
    (lambda: FreeState(LSTM)(None, 3, rows=torch.zeros(2, dtype=torch.long, device="meta")), ValueError,
     "rows: expected a tensor whose values can be read, got one on meta"),
    (lambda: SumState([FreeState(LSTM)], 0.5), TypeError, "weights: expected a list of numbers, got 0.5"),
    (lambda: SumState([FreeState(LSTM)], iter([1.0])), TypeError, "weights: expected a list of numbers, got <list_it"),
    (lambda: SumState([FreeState(LSTM)], np.array(1.0)), TypeError, r"weights: expected a list of numbers, got array"),
    (lambda: SumState([FreeState(LSTM)], {0: 1.0}), TypeError, "weights: expected a list of numbers, got {0: 1.0}"),
    (lambda: SumState(FreeState(LSTM), [1]), TypeError, "states: expected a list of InitialStates, got FreeState"),
    (lambda: SumState(None, [1]), TypeError, "states: expected a list of InitialStates, got None"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), OF_OTHER_KINDS)
def test_arguments_of_other_kinds_are_refused(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()


def test_log_prob_refuses_nan_whatever_torch_validates(monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # as torch.compile leaves it
    with pytest.raises(ValueError, match=r"^state: expected numbers in leaf 'c', got NaN"):
        NormalState(LSTM, FreeState(LSTM)).log_prob((H, H * math.nan))


def test_weights_may_be_an_array():
    state = SumState([FreeState(LSTM, value=1.0), FreeState(LSTM, value=3.0)], np.array([0.5, 0.25]))
    assert state.weights == [0.5, 0.25]
    assert state()[0].eq(1.25).all()


class WithoutSpec(nn.Module):
    """Registered by a function that returns something else than a spec."""


state_spec.register(WithoutSpec)(lambda network: "h")


@pytest.mark.parametrize("make", [FreeState, lambda network: ContextualRNN(network, FreeState(LSTM))])
def test_a_registered_function_has_to_return_a_spec(make):
    with pytest.raises(TypeError, match=r"^network: expected a registered function that returns a StateSpec, got 'h'"):
        make(WithoutSpec())


def test_a_context_in_itself_is_refused():
    context = []
    context.append(context)
    with pytest.raises(ValueError, match=r"^context: expected at most 100 containers around a tensor, got more"):
        FreeState(LSTM)(context)
