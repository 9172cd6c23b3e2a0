"""Static covariates: what is encoded how, what each kind of feature adds, and what is refused."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from contextual_rnn import Categorical, ContextNet, ContextState, Continuous, SetValued, state_spec

FEATURES = {
    "crop": Categorical(("rye", "oats"), unknown=True),
    "rain": Continuous(20.0, 4.0),
    "tools": SetValued(("hoe", "plough", "rake")),
}
ROWS = {"crop": ["oats", "rye", "maize"], "rain": [16.0, 20, 30.0], "tools": [{"rake", "hoe"}, [], ("plough",)]}


def make(features=FEATURES, **options):
    torch.manual_seed(0)
    return ContextNet(features, 6, **options)


def test_encoding():
    encoded = make().encode(ROWS)
    assert encoded["crop"].tolist() == [1, 0, 2]
    assert encoded["rain"].tolist() == [16, 20, 30]
    assert encoded["tools"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_columns_may_be_tensors():
    net = make({"crop": Categorical((3, 5), unknown=True), "rain": Continuous(20.0, 4.0), "tools": SetValued((1, 2))})
    rows = {"crop": [5, 3, 4], "rain": [16.0, 20.0, 30.0], "tools": [[1, 2], [2, 2], [1, 1]]}
    encoded, expected = net.encode({name: torch.tensor(column) for name, column in rows.items()}), net.encode(rows)
    assert expected["crop"].tolist() == [1, 0, 2]
    assert all(torch.equal(encoded[name], expected[name]) for name in rows)


def test_features_are_the_equation():
    net = make(embedding_dim=4)
    crops, _, tools = net.embeddings
    parts = [
        torch.cat([crops.weight[1], torch.tensor([-1.0]), tools.weight[2] + tools.weight[0]]),
        torch.cat([crops.weight[0], torch.tensor([0.0]), torch.zeros(4)]),
        torch.cat([crops.weight[2], torch.tensor([2.5]), tools.weight[1]]),
    ]
    torch.testing.assert_close(net(net.encode(ROWS)), net.linear(torch.stack(parts)).relu())


def test_every_parameter_learns_and_one_example_is_a_row():
    net = make()
    encoded = net.encode(ROWS)
    net(encoded).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
    one = {name: tensor[1] for name, tensor in encoded.items()}
    torch.testing.assert_close(net(one), net(encoded)[1])


def test_is_a_context_network_without_more_words():
    lstm = nn.LSTM(1, 5)
    net = make()
    h, c = ContextState(lstm, net)(net.encode(ROWS))
    assert h.shape == c.shape == (1, 3, 5)
    assert not torch.equal(h[:, 0], h[:, 1])
    with pytest.raises(ValueError, match=r"context: the context network refuses dict.*rain: expected finite values"):
        ContextState(lstm, net)(net.encode(ROWS) | {"rain": torch.tensor([1.0, math.nan, 2.0])})
    assert state_spec(lstm).unpack(ContextState(lstm, net)(net.encode(ROWS), 3))


def test_fitted_to_training_data():
    assert Categorical.fit(["b", "a", "b"], unknown=True) == Categorical(("b", "a"), unknown=True)
    assert SetValued.fit([["x"], [], ["y", "x"]]) == SetValued(("x", "y"))
    rain = Continuous.fit([1, 2.0, 6])
    assert (rain.mean, rain.std) == pytest.approx((3.0, math.sqrt(14 / 3)))
    assert Continuous.fit([0.1, 0.1, 0.1]).std == 1.0, "a constant feature is not divided by rounding errors"
    net = ContextNet({"rain": Continuous.fit([1e6, 1e6 + 2])})
    assert net.linear.in_features == 1


def test_unknown_bucket_learns_from_training_values_put_there():
    net = make({"crop": Categorical(("rye", "oats"), unknown=True, dropout=0.5)})
    rows = {"crop": ["rye"] * 1000}
    net(net.encode(rows)).sum().backward()
    touched = net.embeddings[0].weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [True, False, True]
    rye, unknown = net.eval()(net.encode({"crop": ["rye", "maize"]}))
    share = (net.train()(net.encode(rows)) == unknown).all(1).float().mean()
    assert share == pytest.approx(0.5, abs=0.07)  # four sigma
    assert (net.eval()(net.encode(rows)) == rye).all(), "evaluation hides nothing"


def test_unknown_members_of_a_set_share_a_bucket():
    net = make({"tools": SetValued(("hoe",), unknown=True)})
    assert net.encode({"tools": [["saw", "axe"], ["hoe"]]})["tools"].tolist() == [[0, 1], [1, 0]]


def test_weights_come_back_and_move_with_the_module():
    net, other = make(), ContextNet(FEATURES, 6)
    encoded = net.encode(ROWS)
    assert not torch.equal(net(encoded), other(encoded))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(encoded), other(encoded))
    double = net.double()
    assert double(double.encode(ROWS)).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"crop": None}, ValueError, "context: expected feature 'crop', got only 'rain', 'tools'"),
        ({"soil": ["clay"] * 3}, ValueError, "context: expected only crop, rain, tools, got feature 'soil' too"),
        ({"rain": [1.0, 2.0]}, ValueError, "rain: expected 3 values, as crop has, got 2"),
        ({"rain": [1.0, math.nan, 2.0]}, ValueError, "rain: expected a finite number, got nan"),
        ({"rain": torch.ones(3, 2)}, TypeError, r"rain: expected a finite number, got \[1.0, 1.0\]"),
        ({"rain": [1.0, True, 2.0]}, TypeError, "rain: expected a finite number, got True"),
        ({"crop": torch.ones(3, 2)}, TypeError, r"crop: expected a category, got \[1.0, 1.0\]"),
        ({"rain": [1.0, "wet", 2.0]}, TypeError, "rain: expected a finite number, got 'wet'"),
        ({"tools": [["saw"], [], []]}, ValueError, "tools: expected one of 'hoe', 'plough', 'rake', got 'saw'"),
        ({"tools": ["hoe", [], []]}, TypeError, "tools: expected a collection of members, got 'hoe'"),
        ({"crop": "rye"}, TypeError, "crop: expected a column of values, got 'rye'"),
        ({"crop": 3}, TypeError, "crop: expected a column of values, got 3"),
        ({"crop": [["rye"], "rye", "rye"]}, TypeError, r"crop: expected a category, got \['rye'\]"),
    ],
)
def test_bad_rows(change, error, message):
    rows = {name: column for name, column in (ROWS | change).items() if column is not None}
    with pytest.raises(error, match=message):
        make().encode(rows)


def test_unknown_category_without_a_bucket():
    net = make({"crop": Categorical(("rye", "oats"))})
    with pytest.raises(ValueError, match="crop: expected one of 'rye', 'oats', got 'maize'"):
        net.encode({"crop": ["rye", "maize"]})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rain": None}, ValueError, "context: expected feature 'rain'"),
        ({"soil": torch.zeros(3)}, ValueError, "got feature 'soil' too"),
        ({"rain": [1.0]}, TypeError, "rain: expected a tensor, as encode makes it, got list"),
        ({"rain": torch.zeros(3, dtype=torch.long)}, TypeError, "rain: expected floats, got torch.int64"),
        ({"crop": torch.zeros(3)}, TypeError, "crop: expected torch.int64, got torch.float32"),
        ({"crop": torch.tensor([0, 1, 3])}, ValueError, r"crop: expected indices from 0 to 2, got \[0, 1, 3\]"),
        ({"crop": torch.tensor([0, 1, -1])}, ValueError, "crop: expected indices from 0 to 2"),
        ({"rain": torch.zeros(3, 1)}, ValueError, r"rain: expected shape \(batch,\) or \(\) .* got \(3, 1\)"),
        ({"tools": torch.zeros(3, 2)}, ValueError, r"tools: expected shape \(batch, 3\) or \(3,\) .* got \(3, 2\)"),
        ({"rain": torch.zeros(2)}, ValueError, r"rain: expected a batch of \(3,\), as crop, got \(2,\)"),
        ({"rain": torch.tensor([0.0, math.inf, 0.0])}, ValueError, "rain: expected finite values"),
    ],
)
def test_bad_tensors(change, error, message):
    net = make()
    context = {name: tensor for name, tensor in (net.encode(ROWS) | change).items() if tensor is not None}
    with pytest.raises(error, match=message):
        net(context)


def test_bad_features():
    with pytest.raises(TypeError, match="features: expected a dict of at least one feature"):
        ContextNet({})
    with pytest.raises(TypeError, match="features: expected Categorical, Continuous or SetValued for 'x', got int"):
        ContextNet({"x": 3})
    with pytest.raises(ValueError, match="categories: expected different ones, got 'a', 'a'"):
        Categorical(("a", "a"))
    with pytest.raises(ValueError, match="categories: expected at least one, got none"):
        SetValued(())
    with pytest.raises(TypeError, match="categories: expected a sequence of categories, got 'abc'"):
        Categorical("abc")
    with pytest.raises(ValueError, match="dropout: expected 0 without an unknown bucket"):
        Categorical(("a",), dropout=0.1)
    with pytest.raises(ValueError, match="std: expected a positive, finite number"):
        Continuous(0.0, 0.0)
    with pytest.raises(ValueError, match="values: expected at least one, got none"):
        Continuous.fit([])
    with pytest.raises(ValueError, match="out_features: expected a positive int, got 0"):
        ContextNet(FEATURES, 0)


@pytest.mark.parametrize("kind", [Categorical, SetValued])
@pytest.mark.parametrize("value", ["no", 1, None])
def test_unknown_is_true_or_false(kind, value):
    for make, values in ((kind, ("rye", "oats")), (kind.fit, (("rye",), ("oats",)))):
        with pytest.raises(TypeError, match=f"^unknown: expected True or False, got {value!r}"):
            make(values, unknown=value)


def test_quantities_beyond_float_are_refused_by_name():
    net = ContextNet({"rain": Continuous(0.0, 1.0)})
    with pytest.raises(ValueError, match=r"^rain: expected a finite number, got 1000"):
        net.encode({"rain": [10**400]})
    with pytest.raises(ValueError, match=r"^values: expected a finite number, got 1000"):
        Continuous.fit([1.0, 10**400])
    with pytest.raises(ValueError, match=r"^std: expected a positive, finite number, got 1000"):
        Continuous(0.0, 10**400)
    for name in ("out_features", "embedding_dim"):
        with pytest.raises(ValueError, match=f"{name}.*: expected"):
            ContextNet({"crop": Categorical(("rye",))}, **{"out_features": 2, name: 2**62})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Categorical([["a"]]), "categories: expected hashable ones, got unhashable type"),
        (lambda: SetValued([["a"]]), "categories: expected hashable ones, got unhashable type"),
        (lambda: Categorical.fit(None), "values: expected values of the training data, got None"),
        (lambda: Categorical.fit("abc"), "values: expected values of the training data, got 'abc'"),
        (lambda: Categorical.fit({"a": 1}), "values: expected values of the training data, got {'a': 1}"),
        (lambda: Categorical.fit(np.array("a")), "values: expected values of the training data, got array"),
        (lambda: Categorical.fit([["a"]]), "values: expected categories that are hashable, got unhashable type"),
        (lambda: SetValued.fit(None), "values: expected sets of the training data, got None"),
        (lambda: SetValued.fit([1]), "values: expected a collection of members, got 1"),
        (lambda: SetValued.fit(["ab"]), "values: expected a collection of members, got 'ab'"),
        (lambda: SetValued.fit([[["a"]]]), "values: expected categories that are hashable, got unhashable type"),
        (lambda: Continuous.fit(None), "values: expected values of the training data, got None"),
        (lambda: Continuous.fit(3.0), "values: expected values of the training data, got 3.0"),
        (lambda: Continuous.fit({1.0, 2.0}), "values: expected values of the training data, got {1.0, 2.0}"),
        (lambda: Continuous.fit([1.0, "2"]), "values: expected a finite number, got '2'"),
        (lambda: ContextNet({1: Continuous(0, 1)}), r"features: expected names that are texts, got \[1\]"),
        (lambda: RAIN.encode({"rain": {0: 1.0}}), "rain: expected a column of values, got {0: 1.0}"),
        (lambda: RAIN.encode({"rain": {1.0}}), "rain: expected a column of values, got {1.0}"),
        (lambda: RAIN.encode({"rain": np.array(1.0)}), "rain: expected a column of values, got array"),
        (lambda: CROP.encode({"crop": [("a", ["b"])]}), r"crop: expected a category, got \('a', \['b'\]\)"),
        (lambda: RAIN({"rain": torch.zeros(2).to(torch.float8_e4m3fn)}), "rain: expected floats, got torch.float8"),
    ],
)
def test_values_of_other_kinds_are_refused(call, words):
    with pytest.raises(TypeError, match=f"^{words}"):
        call()


RAIN, CROP = ContextNet({"rain": Continuous(0.0, 1.0)}), ContextNet({"crop": Categorical(("a",))})


def test_columns_without_values_are_refused():
    for values in (torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()):
        for name, call in (("values", Continuous.fit), ("rain", lambda column: RAIN.encode({"rain": column}))):
            with pytest.raises(ValueError, match=f"^{name}: expected"):
                call(values)


def test_columns_that_vmap_runs_over_are_refused():
    with pytest.raises(ValueError, match=r"^values: expected values that can be read"):
        torch.func.vmap(lambda column: column * Continuous.fit(column).mean)(torch.rand(2, 3))


def test_a_feature_on_another_device_than_the_weights_is_refused():
    for net, features in ((RAIN, {"rain": torch.zeros(2)}), (CROP, {"crop": torch.zeros(2).long()})):
        name, values = *features, *features.values()
        with pytest.raises(ValueError, match=f"^{name}: expected a tensor on cpu, as the weights, got one on meta"):
            net({name: values.to("meta")})


def test_values_of_arrays_tensors_and_iterators_are_pythons_own():
    assert Categorical.fit(torch.tensor([3, 1, 3])).categories == (3, 1)
    assert Categorical.fit(np.array(["b", "a", "b"])).categories == ("b", "a")
    assert SetValued.fit(torch.tensor([[1, 2], [2, 3]])).categories == (1, 2, 3)
    assert Continuous.fit(float(x) for x in (1, 3)) == Continuous(2.0, 1.0)


def test_a_quantity_that_scaling_makes_infinite_is_refused():
    net = ContextNet({"rain": Continuous(0.0, 1e-40)})
    with pytest.raises(ValueError, match=r"^rain: expected finite values, got "):
        net(net.encode({"rain": [31.0]}))


@pytest.mark.parametrize(("mean", "std"), [(Fraction(1, 2), Fraction(1, 4)), (10**30, 10**25), (np.float32(0.5), 1)])
def test_numbers_of_every_kind_scale_a_quantity(mean, std):
    feature = Continuous(mean, std)
    assert (type(feature.mean), type(feature.std)) == (float, float)
    torch.manual_seed(0)
    net = ContextNet({"rain": feature})
    rows = net.encode({"rain": [1.0, float(mean) + 2 * float(std)]})
    expected = torch.tensor([(1.0 - float(mean)) / float(std), 2.0])[:, None]
    torch.testing.assert_close(net(rows), torch.relu(net.linear(expected)))
    crop = ContextNet({"crop": Categorical(("rye", "oats"), unknown=True, dropout=Fraction(1, 3))})
    crop(crop.encode({"crop": ["rye"]}))


def test_on_meta_and_row_by_row():
    """Values cannot be read there."""
    net = make(FEATURES)
    rows = net.encode(ROWS)
    meta = {name: value.to("meta") for name, value in rows.items()}
    assert copy.deepcopy(net).to("meta")(meta).shape == net(rows).shape
    torch.testing.assert_close(torch.vmap(net)(rows), net(rows))
