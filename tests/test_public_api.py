"""The public names, what importing brings along, and which way imports go."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests import fresh

import contextual_rnn
from contextual_rnn import diagnostics

PACKAGE = Path(contextual_rnn.__file__).parent


def modules_after(statement: str) -> set[str]:
    return set(fresh.run(f"import sys; {statement}; print('\\n'.join(sys.modules))").stdout.split())


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
        "LatentState",
        "Leaf",
        "LeafwiseState",
        "LowRank",
        "Moments",
        "NormalState",
        "SetValued",
        "StateSpec",
        "SumState",
        "TokenSampler",
        "attach",
        "check_spec",
        "detach",
        "fast_weights_spec",
        "generate",
        "given_context",
        "interpolate",
        "remove_initial_state",
        "sequence_cross_entropy",
        "state_spec",
        "truncated",
    ]
    assert all(hasattr(contextual_rnn, name) for name in contextual_rnn.__all__)


def test_the_stub_is_the_table_of_contents():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    contents = {alias.asname: (node.module, alias.name) for node in imports for alias in node.names}
    names = {name: (f"contextual_rnn.{module}", name) for name, module in contextual_rnn._MODULES.items()}
    modules = {name: ("contextual_rnn", name) for name in contextual_rnn._PUBLIC_MODULES}
    assert contents == names | modules
    needs_safetensors = {"load_carried_state", "load_state", "save_carried_state", "save_state"}
    assert set(names) - needs_safetensors == set(contextual_rnn.__all__)
    assert ast.get_docstring(tree) == contextual_rnn.__doc__
    (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    assert ast.literal_eval(listed) == contextual_rnn.__all__, "type checkers know what `import *` brings"


def test_modules_that_the_docs_import_from_are_attributes_of_the_package():
    pages = "".join(page.read_text() for page in (PACKAGE.parents[1] / "docs").rglob("*.md"))
    imported = set(re.findall(r"^from contextual_rnn\.(\w+)", pages, re.MULTILINE)) - {"experiments"}
    assert {"generation", "hub", "language"} <= imported <= set(contextual_rnn._PUBLIC_MODULES)


def test_dir_shows_no_module_of_python():
    names = fresh.run("import contextual_rnn; print(*dir(contextual_rnn))").stdout.split()
    assert not {"gc", "import_module", "ModuleType"} & set(names)


@pytest.mark.parametrize("name", [*contextual_rnn._MODULES, *contextual_rnn._PUBLIC_MODULES, "__version__"])
def test_every_name_is_there_after_import_contextual_rnn(name):
    assert name in dir(contextual_rnn)
    vars(contextual_rnn).pop(name, None)  # as in a new process
    value = getattr(contextual_rnn, name)
    assert vars(contextual_rnn)[name] is value
    if name in contextual_rnn._MODULES:
        assert value is getattr(sys.modules[f"contextual_rnn.{contextual_rnn._MODULES[name]}"], name)


@pytest.mark.parametrize("collecting", [True, False])
def test_no_garbage_is_collected_while_modules_are_imported(collecting):
    """A full collection visits every object of PyTorch: it took longer than all our modules."""
    code = f"""if True:
        import gc, torch, contextual_rnn
        started = []
        gc.callbacks.append(lambda phase, info: started.append(phase))
        gc.set_threshold(1)
        gc.enable() if {collecting} else gc.disable()
        contextual_rnn.ContextualRNN
        assert gc.isenabled() is {collecting}
        print(len(started))"""
    assert int(fresh.run(code).stdout) < 10


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'contextual_rnn' has no attribute 'Contextual'"):
        _ = contextual_rnn.Contextual
    with pytest.raises(ImportError, match="cannot import name 'Contextual'"):
        exec("from contextual_rnn import Contextual")


def test_a_network_from_a_file_has_its_spec(tmp_path):
    """Its module registers the spec, and nothing but the file imports that module."""
    torch.save(contextual_rnn.FastWeightsRNN(2, 3), tmp_path / "network")
    code = f"""if True:
        import sys, torch
        from contextual_rnn import state_spec
        assert "contextual_rnn.layers.fast_weights" not in sys.modules
        network = torch.load({str(tmp_path / "network")!r}, weights_only=False)
        print([leaf.name for leaf in state_spec(network)])"""
    assert fresh.run(code).stdout == "['h']\n"


# The reason that these cannot name all arguments.
OPEN = {
    "LeafwiseState.__init__": "a state for each leaf, by the leaf's name",
    "ContextualRNN.forward": "further arguments are those of the network",
}


def test_signatures_name_every_argument():
    """Editors show them; `**options` would show nothing."""
    functions = {}
    for module in (contextual_rnn, contextual_rnn.ops, contextual_rnn.diagnostics, contextual_rnn.export):
        for name in getattr(module, "__all__", None) or [name for name in vars(module) if name[0].islower()]:
            value = getattr(module, name)
            if inspect.isfunction(value):
                functions[name] = value
            elif inspect.isclass(value):
                methods = {n: m for n, m in vars(value).items() if inspect.isfunction(m)}
                functions |= {f"{name}.{n}": m for n, m in methods.items() if n == "__init__" or n[0] != "_"}
    assert len(functions) > 50
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    unnamed = {
        name
        for name, function in functions.items()
        if function.__module__.startswith("contextual_rnn")
        and any(parameter.kind in variadic for parameter in inspect.signature(function).parameters.values())
    }
    assert unnamed == set(OPEN)


def test_no_name_hides_a_module():
    """`contextual_rnn.NAME` is the file NAME.py or something else, never one of them by the order of imports."""
    for file in PACKAGE.rglob("__init__.py"):
        modules = {path.stem for path in file.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
        imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {alias.asname or alias.name for node in imports for alias in node.names}
        assert not names & modules, file
    assert not {
        name for name in contextual_rnn._MODULES if list(PACKAGE.glob(f"{name}.py")) or (PACKAGE / name).is_dir()
    }


def test_public_names_of_the_diagnostics():
    assert diagnostics.__all__ == ["Diagnosis", "Influence", "Sigma", "diagnose", "diagnose_state"]
    assert all(hasattr(diagnostics, name) for name in diagnostics.__all__)


def test_import_brings_no_torch():
    code = "import sys, contextual_rnn; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("statement", ["from contextual_rnn import *", "import contextual_rnn.diagnostics"])
def test_import_brings_torch_and_nothing_of_the_experiments(statement):
    # What torch imports by itself, a function of ours it would import later counted in.
    torch_alone = modules_after("import torch, torch.distributions, torch.nn.utils.rnn, importlib.metadata")
    ours = modules_after(statement) - torch_alone
    assert "contextual_rnn.states" in ours
    outside = {name.partition(".")[0] for name in ours} - {"contextual_rnn"}
    assert outside <= set(sys.stdlib_module_names)
    assert not {name for name in ours if name.startswith("contextual_rnn.experiments")}
    assert not {name for name in ours if name.endswith(".operators")}  # registering takes long


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
