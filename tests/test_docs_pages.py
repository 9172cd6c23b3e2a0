"""The pages are true: their code runs in order as one program, and every public name is described and shown in use."""

import importlib
import inspect
import re

import pytest
import torch
from tests.pages import EXAMPLES, PAGES, README, ROOT, blocks, names_used, run

import contextual_rnn

# Pages whose code another test runs, which also looks at what it computes.
OWN_TESTS = {
    "README.md": "test_readme.py",
    "attach.md": "test_docs_attach.py",
    "compare.md": "test_docs_compare.py",
    "deployment.md": "test_docs_deployment.py",
    "diagnostics.md": "test_diagnostics_docs.py",
    "generation.md": "generation/test_docs_generation.py",
    "language.md": "test_docs_language.py",
    "own-task.md": "experiments/test_own_task.py",
    "own-states.md": "test_own_states.py",
    "posteriors.md": "test_docs_posteriors.py",
    "retrofit.md": "test_docs_retrofit.py",
    "sequences.md": "test_docs_sequences.py",
    "works-with.md": "test_works_with.py",
}
OWN_FOLDERS = {"coming-from": "test_coming_from.py"}
NEED_MORE = {  # whose blocks of ```py need files or packages, which their tests bring
    "compare.md": "test_docs_compare.py",
    "rwkv.md": "language/test_rwkv7.py",
    "voice.md": "examples/test_voice.py",
}
MODULES = ("diagnostics", "export", "generation", "hub", "language", "ops", "serialization", "spec", "states")


def has_a_test_of_its_own(page):
    return page.name in OWN_TESTS or page.parent.name in OWN_FOLDERS


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python") and not has_a_test_of_its_own(page)],
    ids=lambda page: page.stem,
)
def test_code_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    assert run(page)


@pytest.mark.parametrize(("name", "test"), [*OWN_TESTS.items(), *OWN_FOLDERS.items(), *NEED_MORE.items()])
def test_other_pages_have_the_test_that_is_named(name, test):
    assert name.removesuffix(".md") in (ROOT / "tests" / test).read_text()


def test_no_block_is_left_out():
    assert {page.name for page in PAGES if blocks(page, "py")} == set(NEED_MORE)
    assert all('"py")' in (ROOT / "tests" / test).read_text() for test in NEED_MORE.values())


def public_names():
    """As "name" of the package, or "module.name"."""
    names = [*contextual_rnn._MODULES]
    for module in MODULES:
        contents = importlib.import_module(f"contextual_rnn.{module}")
        listed = getattr(contents, "__all__", None) or [
            name
            for name, value in vars(contents).items()
            if name[0] not in "_" and getattr(value, "__module__", "").startswith(contents.__name__)
        ]
        names += [f"{module}.{name}" for name in listed if name not in names]
    return names


NAMES = public_names()
NOTHING_TO_RAISE = {  # tables, types, and what our functions return
    *("ops.BACKENDS", "ops.KERNELS", "ops.TIMINGS", "ops.Timing", "Moments", "generation.Generated"),
    *("diagnostics.Diagnosis", "diagnostics.Influence", "diagnostics.Sigma"),
}
DESCRIBED = {
    name
    for page in PAGES
    for name in re.findall(r"^\.\. (?:auto|py:)\w+:: contextual_rnn\.(\S+)", page.read_text(), re.M)
}
SHOWN = set(
    names_used([*("\n".join(blocks(page, "python")) for page in (README, *PAGES)), *(p.read_text() for p in EXAMPLES)])
)


def test_there_are_public_names():
    assert len(NAMES) > 50
    assert {"ContextState", "states.Posterior", "ops.fast_weights", "hub.HubContextualRNN"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_a_reference_and_an_example(name):
    assert name in DESCRIBED, f"expected {name} in docs/reference"
    assert name.rpartition(".")[2] in SHOWN, f"expected {name} in code of the README, of a page or of an example"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOTHING_TO_RAISE])
def test_every_reference_says_what_is_raised(name):
    module, _, last = f"contextual_rnn.{name}".rpartition(".")
    described = getattr(importlib.import_module(module), last)
    texts = [inspect.getdoc(described)]
    if inspect.isclass(described):
        texts += [inspect.getdoc(method) for method in vars(described).values() if inspect.isfunction(method)]
    assert re.search(r"[Rr]aises|[Ee]rror", " ".join(filter(None, texts)))
