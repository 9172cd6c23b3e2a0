"""Shapes of the inner functions are checked at run time during the tests; the entry points check for themselves.

The hook must be in place before the package is imported. It covers no public function, where a check of its own
could hide that ours is missing.
"""

import os

from jaxtyping import install_import_hook

install_import_hook(
    ["contextual_rnn.ops._fast_weights.reference", "contextual_rnn.ops._fast_weights.attention"], "beartype.beartype"
)

# Tests survive no power failure: a file that never reaches the disk is written, and deleted, a hundred times as fast.
os.fsync = lambda file: None
