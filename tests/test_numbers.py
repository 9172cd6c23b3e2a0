"""Checks of the numbers and flags that are arguments."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from contextual_rnn import Categorical, ContextNet, Continuous, Leaf, LeafwiseState, StateSpec
from contextual_rnn._numbers import check_elements, check_flag, check_number, check_size

BEYOND_FLOAT = [10**400, -(10**400), 10**5000, Fraction(10**400), Fraction(10**5000, 3), np.longdouble("1e4000")]


@pytest.mark.parametrize("value", BEYOND_FLOAT, ids=["1e400", "-1e400", "1e5000", "fraction", "long", "longdouble"])
def test_a_number_beyond_the_range_of_float_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^decay: expected a finite number, got ") as raised:
        check_number("decay", value)
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize("value", [3, 0.25, Fraction(1, 4), np.float32(0.25), np.float16(0.25), np.int64(3)])
def test_a_real_number_of_any_kind_becomes_a_float(value):
    number = check_number("decay", value)
    assert type(number) is float
    assert number == float(value)


@pytest.mark.parametrize("value", [True, np.True_, "0.5", 1j, None, Decimal("0.5"), torch.tensor(0.5), np.array([0.5])])
def test_what_is_no_real_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"^decay: expected a finite number, got "):
        check_number("decay", value)


@pytest.mark.parametrize("size", [2**63, 10**400, 10**5000], ids=["2**63", "1e400", "1e5000"])
def test_a_size_that_torch_cannot_count_to_is_refused_by_name(size):
    with pytest.raises(ValueError, match=r"^units: expected a positive int below 2\*\*63, got "):
        check_size("units", size)
    check_size("units", 2**63 - 1)


def test_sizes_whose_bytes_torch_cannot_count_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"^rows, columns: expected a product that fits in memory, got 1099511627776, "
    ):
        check_elements(rows=2**40, columns=2**40)
    check_elements(rows=2**30, columns=2**29)


@pytest.mark.parametrize("value", ["no", "", 0, 1, None, 0.0, np.True_, torch.tensor(True), []], ids=repr)
def test_a_flag_is_true_or_false_and_nothing_else(value):
    with pytest.raises(TypeError, match=r"^bias: expected True or False, got "):
        check_flag("bias", value)
    check_flag("bias", True)
    check_flag("bias", False)


MANY = [f"n{number}" for number in range(3000)]
WIDE = StateSpec(tuple(Leaf(name, (3,)) for name in MANY))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ContextNet({"crop": Categorical(MANY)}).encode({"crop": ["rye"]}),
        lambda: ContextNet(dict.fromkeys(MANY, Continuous(0.0, 1.0))).encode([]),
        lambda: ContextNet({"rain": Continuous(0.0, 1.0)}).encode(dict.fromkeys(MANY)),
        lambda: Categorical([*MANY, "n0"]),
        lambda: WIDE["rye"],
        lambda: WIDE.unpack(torch.zeros(3)),
        lambda: StateSpec((*WIDE, WIDE.tree[0])),
        lambda: LeafwiseState(WIDE),
    ],
)
def test_messages_show_the_first_of_many_names(call):
    with pytest.raises((ValueError, TypeError, KeyError), match=r"n0.*n1.*\.\.\.") as error:
        call()
    assert len(str(error.value)) < 600
