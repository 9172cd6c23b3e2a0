"""The public names, what importing brings along, and which way imports go."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import contextual_rnn
from contextual_rnn import diagnostics

PACKAGE = Path(contextual_rnn.__file__).parent


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_public_names():
    assert contextual_rnn.__all__ == [
        "AdditiveAttention",
        "Categorical",
        "ConstantState",
        "ContextDropout",
        "ContextNet",
        "ContextState",
        "ContextualRNN",
        "Continuous",
        "FastWeightsCell",
        "FastWeightsRNN",
        "FreeState",
        "InitialState",
        "Leaf",
        "LeafwiseState",
        "LowRank",
        "NormalState",
        "SetValued",
        "StateSpec",
        "SumState",
        "detach",
        "fast_weights_spec",
        "generate",
        "sequence_cross_entropy",
        "state_spec",
        "truncated",
    ]
    assert all(hasattr(contextual_rnn, name) for name in contextual_rnn.__all__)


def test_public_names_of_the_diagnostics():
    assert diagnostics.__all__ == ["Diagnosis", "Influence", "Sigma", "diagnose", "diagnose_state"]
    assert all(hasattr(diagnostics, name) for name in diagnostics.__all__)


@pytest.mark.parametrize("module", ["contextual_rnn", "contextual_rnn.diagnostics"])
def test_import_brings_torch_and_nothing_of_the_experiments(module):
    # What torch imports by itself, a function of ours it would import later counted in.
    torch_alone = modules_after("import torch, torch.distributions, torch.nn.utils.rnn, importlib.metadata")
    ours = modules_after(f"import {module}") - torch_alone
    outside = {name.partition(".")[0] for name in ours} - {"contextual_rnn"}
    assert outside <= set(sys.stdlib_module_names)
    assert not {name for name in ours if name.startswith("contextual_rnn.experiments")}


def test_the_library_never_imports_the_experiments():
    files = [path for path in PACKAGE.rglob("*.py") if "experiments" not in path.relative_to(PACKAGE).parts]
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                assert node.level == 0, "imports are absolute, or this test is blind to them"
            assert not any("experiments" in name for name in names), path


def test_files_stay_short():
    long = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert max(long.values()) <= 300, long
