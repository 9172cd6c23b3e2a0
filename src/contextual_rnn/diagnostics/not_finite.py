"""Sentences on the numbers of a diagnosis that are not finite."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def not_finite(what: str, values: Tensor, name: str) -> str | None:
    """A sentence about `values`, called `name` in code: how many are not finite and which is the first; None for none.

    not_finite("losses under the true state", losses, "losses")
    -> "losses under the true state: 3 of 240 are not finite, the first is losses[2, 4] = nan"
    """
    bad = ~values.detach().isfinite()
    if not (count := int(bad.sum())):
        return None
    place = bad.nonzero()[0].tolist()
    first = f"{name}[{', '.join(map(str, place))}] = {values.detach()[tuple(place)].item():g}"
    return f"{what}: {count} of {values.numel()} are not finite, the first is {first}"


def among(sentences: Iterable[str | None]) -> str | None:
    """One sentence for many runs: the first, and how many more there are."""
    texts = [text for text in sentences if text is not None]
    if not texts:
        return None
    return texts[0] + (f"; so it is in {len(texts)} runs" if len(texts) > 1 else "")
