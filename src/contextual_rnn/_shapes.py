"""Shape annotations, checked in the test run and free everywhere else.

`Float[Tensor, "B T H"]` is jaxtyping's notation. The library depends on torch alone, so jaxtyping is used only where it
has been imported already (the tests do, and check every annotated call); otherwise the annotation is plain `Tensor`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float, Int
else:

    class Float:
        def __class_getitem__(cls, item: tuple) -> type:
            return item[0]

    Int = Float

__all__ = ["Float", "Int"]
