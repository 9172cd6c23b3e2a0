"""A context network for static covariates: categories, quantities and sets in one dict."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn._entries import entries_of
from contextual_rnn._numbers import (
    FINITE,
    check_elements,
    check_factory,
    check_number,
    check_size,
    listed,
    readable,
    shortened,
)
from contextual_rnn._precision import wide
from contextual_rnn._saved_numbers import SavesNumbers
from contextual_rnn._tensors import FLOATS, check_dense
from contextual_rnn.layers.features import Categorical as Categorical
from contextual_rnn.layers.features import Continuous as Continuous
from contextual_rnn.layers.features import Feature, buckets, members_of
from contextual_rnn.layers.features import SetValued as SetValued
from contextual_rnn.layers.saved_features import described, numbers_of, with_numbers


class ContextNet(SavesNumbers):
    """Features of a dict of static covariates: ReLU(W [embedded categories, scaled quantities, summed sets] + b).

    `features` says what each entry is. A category is looked up in an embedding of `embedding_dim`, a set is the sum
    of its members' embeddings, a quantity is scaled by its training mean and standard deviation. The output is
    (B, `out_features`), or (out_features,) for one example: a context network for every contextual state.

        encoder = ContextNet({"crop": Categorical.fit(crops, unknown=True), "rain": Continuous.fit(rains)}, 32)
        state = ContextState(lstm, encoder)
        hx = state(encoder.encode({"crop": ["rye", "oats"], "rain": [31.0, 12.5]}))

    Raises TypeError or ValueError for features that are none of the three kinds, sizes that are no positive ints, and a
    device or dtype that parameters cannot have.
    """

    saved_numbers = MappingProxyType({"feature_numbers": FINITE})

    def __init__(
        self,
        features: Mapping[str, Feature],
        out_features: int = 32,
        *,
        embedding_dim: int = 8,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        device, dtype = check_factory(device, dtype)
        out_features = check_size("out_features", out_features)
        embedding_dim = check_size("embedding_dim", embedding_dim)
        check_elements(out_features=out_features, embedding_dim=embedding_dim)
        if not isinstance(features, Mapping) or not features:
            raise TypeError(f"features: expected a dict of at least one feature, got {shortened(features)}")
        if not all(isinstance(name, str) for name in features):
            raise TypeError(f"features: expected names that are texts, got {shortened(list(features))}")
        self.features, self.out_features = dict(features), out_features
        # In a list, not under the features' names: those are free, a module's attributes are not.
        self.embeddings, width = nn.ModuleList(), 0
        for name, feature in self.features.items():
            if isinstance(feature, Continuous):
                self.embeddings.append(nn.Identity())
                width += 1
            elif isinstance(feature, (Categorical, SetValued)):
                self.embeddings.append(nn.Embedding(buckets(feature), embedding_dim, device=device, dtype=dtype))
                width += embedding_dim
            else:
                kinds = "Categorical, Continuous or SetValued"
                raise TypeError(f"features: expected {kinds} for {name!r}, got {type(feature).__name__}")
        self.linear = nn.Linear(width, out_features, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Start anew as the constructor does."""
        for layer in (*self.embeddings, self.linear):
            if not isinstance(layer, nn.Identity):
                layer.reset_parameters()  # pyright: ignore[reportCallIssue]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {_in_short(feature)}" for name, feature in self.features.items())

    @property
    def feature_numbers(self) -> list[float]:
        """The numbers of the features, in their order: means, standard deviations and dropouts, which files restore."""
        return [number for feature in self.features.values() for number in numbers_of(feature).values()]

    @feature_numbers.setter
    def feature_numbers(self, numbers: Sequence[float]) -> None:
        self.features = with_numbers(self.features, numbers)

    def check_saved(self, name: str, value: Sequence[float]) -> None:
        with_numbers(self.features, value)  # features check their numbers

    def saved_words(self) -> dict[str, str | None]:
        return {"features": "; ".join(f"{name} {described(feature)}" for name, feature in self.features.items())}

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        """Columns of raw values, each of length B, to the tensors that `forward` takes.

        A quantity stays as it is, in float64, which `forward` scales before it rounds: seconds since 1970 have more
        digits than float32. Without float64 on the device (mps) it is float32. A set is any collection of its members,
        encoded in floats of this module. Raises ValueError or TypeError that names the feature: missing or not asked
        for, columns of different lengths, an unknown category without a bucket, a quantity that is no finite number.
        """
        self._check_names(rows)
        columns = {name: entries_of(name, column, "a column of values") for name, column in rows.items()}
        first = next(iter(columns))
        for name, column in columns.items():
            if len(column) != len(columns[first]):
                raise ValueError(f"{name}: expected {len(columns[first])} values, as {first} has, got {len(column)}")
        place: dict[str, Any] = {"device": self.linear.weight.device}
        exact = torch.float32 if place["device"].type == "mps" else torch.float64
        encoded = {}
        for name, feature in self.features.items():
            if isinstance(feature, Continuous):
                column = [check_number(name, value) for value in columns[name]]
                encoded[name] = torch.tensor(column, dtype=exact, **place)
                continue
            index = {category: number for number, category in enumerate(feature.categories)}
            if isinstance(feature, Categorical):
                column = [_look_up(name, feature, index, value) for value in columns[name]]
                encoded[name] = torch.tensor(column, dtype=torch.long, **place)
            else:
                members = torch.zeros(len(columns[name]), buckets(feature), dtype=self.linear.weight.dtype, **place)
                for row, values in enumerate(columns[name]):
                    for value in members_of(name, values):
                        members[row, _look_up(name, feature, index, value)] = 1
                encoded[name] = members
        return encoded

    def forward(self, context: Mapping[str, Tensor]) -> Tensor:
        """Features (B, out_features) of tensors as `encode` makes them; without B for one example.

        Categories (B,) int64, quantities (B,) and sets (B, members) of floats. A quantity is scaled in its own dtype,
        float32 at least, and then rounded to this module's. Raises ValueError or TypeError that names the feature for
        one that is missing, not asked for, of another type, device, shape or batch, out of range or not finite.
        """
        self._check_names(context)
        parts, lead = [], None
        for (name, feature), embedding in zip(self.features.items(), self.embeddings, strict=True):
            value = context[name]
            self._check(name, feature, value)
            batch = value.shape[:-1] if isinstance(feature, SetValued) else value.shape
            if lead is not None and batch != lead[1]:
                raise ValueError(f"{name}: expected a batch of {tuple(lead[1])}, as {lead[0]}, got {tuple(batch)}")
            lead = lead or (name, batch)
            if isinstance(feature, Continuous):
                scaled = ((wide(value) - feature.mean) / feature.std).to(self.linear.weight.dtype)
                _check_finite(name, scaled)
                parts.append(scaled[..., None])
            elif isinstance(feature, SetValued):
                assert isinstance(embedding, nn.Embedding)
                parts.append(value.to(embedding.weight.dtype) @ embedding.weight)
            else:
                if self.training and feature.dropout:
                    hidden = torch.rand(value.shape, device=value.device) < feature.dropout
                    value = value.masked_fill(hidden, len(feature.categories))
                parts.append(embedding(value))
        return functional.relu(self.linear(torch.cat(parts, -1)))

    def _check_names(self, given: Mapping[str, Any]) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"context: expected a dict of {listed(self.features)}, got {type(given).__name__}")
        for name in self.features.keys() - given.keys():
            raise ValueError(f"context: expected feature {name!r}, got only {listed(map(repr, given)) or 'none'}")
        for name in given.keys() - self.features.keys():
            raise ValueError(f"context: expected only {listed(self.features)}, got feature {name!r} too")

    def _check(self, name: str, feature: Feature, value: Tensor) -> None:
        check_dense(name, value, "a tensor, as encode makes it")
        categorical = isinstance(feature, Categorical)
        if not (value.dtype == torch.long if categorical else value.dtype in FLOATS):
            raise TypeError(f"{name}: expected {'torch.int64' if categorical else 'floats'}, got {value.dtype}")
        if value.device != (device := self.linear.weight.device):
            raise ValueError(f"{name}: expected a tensor on {device}, as the weights, got one on {value.device}")
        axes = ["members"] if isinstance(feature, SetValued) else []
        if value.ndim not in (len(axes), len(axes) + 1) or (axes and value.shape[-1] != buckets(feature)):
            one = f"({buckets(feature)},)" if axes else "()"
            expected = f"(batch, {buckets(feature)})" if axes else "(batch,)"
            raise ValueError(f"{name}: expected shape {expected} or {one} without a batch, got {tuple(value.shape)}")
        if not readable(value):
            return
        if isinstance(feature, Categorical):
            if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < buckets(feature):
                raise ValueError(
                    f"{name}: expected indices from 0 to {buckets(feature) - 1}, got {shortened(value.tolist())}"
                )
        elif isinstance(feature, SetValued):
            _check_finite(name, value)


def _check_finite(name: str, values: Tensor) -> None:
    if readable(values) and not values.isfinite().all():
        raise ValueError(f"{name}: expected finite values, got {shortened(values.tolist())}")


def _in_short(feature: Feature) -> str:
    if isinstance(feature, Continuous):
        return f"Continuous(mean={feature.mean:g}, std={feature.std:g})"
    unknown = " and unknown" if feature.unknown else ""
    return f"{type(feature).__name__}({len(feature.categories)} categories{unknown})"


def _look_up(name: str, feature: Categorical | SetValued, index: Mapping[Hashable, int], value: Any) -> int:
    try:
        if value in index:
            return index[value]
    except TypeError:  # a tuple may hold what has no hash
        raise TypeError(f"{name}: expected a category, got {shortened(value)}") from None
    if not feature.unknown:
        raise ValueError(f"{name}: expected one of {listed(map(repr, feature.categories))}, got {shortened(value)}")
    return len(feature.categories)
