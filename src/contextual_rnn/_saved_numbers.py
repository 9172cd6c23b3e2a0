"""What defines a module besides tensors: numbers, which its state_dict restores, and words, which must agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from contextual_rnn._numbers import check_number, readable, shortened

PREFIX = "saved_"  # of a number's name in a state_dict
WORDS = "words"  # in a module's entry of the metadata of a state_dict, beside torch's "version"


class SavesNumbers(nn.Module):
    """A module that has some of its attributes in its state_dict: `saved_numbers`, each a float or a list of floats.

    In a state_dict each is a tensor of float64, for float32 has no 0.3: `saved_noise` for the attribute `noise`. The
    attributes stay what they are, so forward passes, `.to()` and parallel training see no tensor. A state_dict without
    them changes nothing: earlier versions had none.
    """

    saved_numbers: ClassVar[Mapping[str, tuple[str, Callable[[float], bool]]]] = {}  # Ranges are such too

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if (own := vars(cls).get("saved_numbers")) is not None:
            _check_declared(cls, own)
            inherited = getattr(super(cls, cls), "saved_numbers", {})
            cls.saved_numbers = {**inherited, **own}
            for name in own:
                setattr(cls, PREFIX + name, _as_tensor(name))

    def saved_words(self) -> dict[str, str | None]:
        """What can be named but not saved, such as a function: a state_dict with another word is refused."""
        return {}

    def check_saved(self, name: str, value: Any) -> None:
        """Raise ValueError for a value of `name` that the module cannot have, beyond what `saved_numbers` says."""

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        check_savable(self)
        for name in numbers_of(self):
            destination[prefix + PREFIX + name] = getattr(self, PREFIX + name)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None and (words := self.saved_words()):
            metadata.setdefault(prefix[:-1], {})[WORDS] = words

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name in numbers_of(self):
            key = prefix + PREFIX + name
            if key in unexpected_keys:
                unexpected_keys.remove(key)
            if key in state_dict and not getattr(state_dict[key], "is_meta", False):
                try:
                    setattr(self, name, checked(self, name, state_dict[key], key))
                except (TypeError, ValueError) as error:
                    error_msgs.append(str(error))
        if WORDS in local_metadata:
            named = {prefix + name: word for name, word in local_metadata[WORDS].items()}
            error_msgs += differing_words({prefix + name: word for name, word in self.saved_words().items()}, named)


def _as_tensor(name: str) -> property:
    """A number as a tensor: torch.func and torch.distributed look for every name of a state_dict in the module."""

    def read(module: SavesNumbers) -> Tensor:
        if name not in (numbers := numbers_of(module)):
            raise AttributeError(f"{name}: expected a number or a list of numbers, got {getattr(module, name, None)!r}")
        tensor = next(module.parameters(), next(module.buffers(), None))
        device = "meta" if tensor is not None and tensor.is_meta else "cpu"
        return torch.tensor(numbers[name], dtype=torch.float64, device=device)

    def write(module: SavesNumbers, tensor: Tensor) -> None:
        try:
            value = None if tensor.is_meta or torch.compiler.is_compiling() else tensor.tolist()
        except RuntimeError:  # one of several under vmap, which has no numbers: the module keeps its own
            return
        if value is not None:
            setattr(module, name, checked(module, name, value, PREFIX + name))

    return property(read, write)


def numbers_of(module: SavesNumbers) -> dict[str, float | list[float]]:
    """The saved numbers by name. One that a user replaced by a parameter, or a tensor made of one, is no number."""
    numbers: dict[str, float | list[float]] = {}
    for name in module.saved_numbers:
        value = _plain_value(module, name)
        if isinstance(value, list | tuple) and all(isinstance(each, Real) for each in value):
            numbers[name] = [float(each) for each in value]
        elif isinstance(value, Real):
            numbers[name] = float(value)
    return numbers


def check_savable(module: SavesNumbers) -> None:
    """Refuse numbers that would be lost, or that nothing could load; parameters in their place are saved as such."""
    numbers = numbers_of(module)
    for name, (expected, _) in module.saved_numbers.items():
        key = f"{type(module).__name__}.{name}"
        if name in numbers:
            checked(module, name, numbers[name], key)
        elif not hasattr(module, name):
            raise ValueError(f"{key}: expected {expected}, as saved_numbers says, got no such attribute")
        elif not isinstance(value := getattr(module, name), Tensor | nn.Module):
            raise TypeError(f"{key}: expected {expected}, as saved_numbers says, got {shortened(value)}")


def _check_declared(kind: type[SavesNumbers], declared: Any) -> None:
    expected = "a dict from names of attributes to (the range in words, a function of a number)"
    if not isinstance(declared, Mapping) or not all(
        isinstance(name, str)
        and isinstance(of_name, tuple | list)
        and len(of_name) == 2
        and isinstance(of_name[0], str)
        and callable(of_name[1])
        for name, of_name in declared.items()
    ):
        raise TypeError(f"{kind.__name__}.saved_numbers: expected {expected}, got {shortened(declared)}")


def _plain_value(module: nn.Module, name: str) -> Any:
    """The attribute; an array of numpy, or a tensor that a state_dict does not have by itself, as numbers of Python."""
    value: Any = getattr(module, name, None)
    if isinstance(value, Tensor):
        of_torch = dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))
        is_plain = name not in of_torch and not value.requires_grad and readable(value)
        return value.tolist() if is_plain else value
    return value.tolist() if hasattr(value, "tolist") else value


def checked(module: SavesNumbers, name: str, value: Any, key: str) -> float | list[float]:
    """`value`, a number, numbers or a tensor, as the attribute `name` has it.

    Raises ValueError or TypeError, which names `key`, for what is no such number and for another length.
    """
    value, current = value.tolist() if isinstance(value, Tensor) else value, numbers_of(module)[name]
    if not isinstance(current, list):
        number = check_number(key, value, *module.saved_numbers[name])
    elif not isinstance(value, list) or len(value) != len(current):
        raise ValueError(f"{key}: expected {len(current)} numbers, got {value!r}")
    else:
        number = [check_number(key, each, *module.saved_numbers[name]) for each in value]
    try:
        module.check_saved(name, number)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    return number


def owners(module: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, SavesNumbers]]:
    """Every module in `module` that saves numbers, with the prefix of its names."""
    for name, owner in module.named_modules(remove_duplicate=remove_duplicate):
        if isinstance(owner, SavesNumbers):
            yield f"{name}." if name else "", owner


def numbers_in(module: nn.Module) -> dict[str, tuple[SavesNumbers, str]]:
    """Of every saved number the module that has it and its name there, by its name in `module`."""
    return {prefix + name: (owner, name) for prefix, owner in owners(module) for name in numbers_of(owner)}


def keys_of_numbers(module: nn.Module) -> dict[str, tuple[SavesNumbers, str]]:
    """As `numbers_in`, by the key in a state_dict of `module`, under each of its names."""
    return {
        prefix + PREFIX + name: (owner, name)
        for prefix, owner in owners(module, remove_duplicate=False)
        for name in numbers_of(owner)
    }


def words_in(module: nn.Module) -> dict[str, str | None]:
    return {prefix + name: word for prefix, owner in owners(module) for name, word in owner.saved_words().items()}


def differing_words(expected: Mapping[str, str | None], received: Mapping[str, str | None]) -> list[str]:
    """One sentence for each word that differs; a function may have another style of name, as Tanh and tanh."""
    return [
        f"{name}: expected {expected.get(name)}, as this module has, got {received.get(name)}"
        for name in {**expected, **received}
        if _plain(expected.get(name)) != _plain(received.get(name))
    ]


def function_name(function: Callable[..., Any] | None) -> str | None:
    """How a function is named: by its own name, a module by its class, and a partial by what it calls."""
    while isinstance(function, partial):
        function = function.func
    return None if function is None else str(getattr(function, "__name__", type(function).__name__))


def _plain(word: str | None) -> str | None:
    return None if word is None else word.casefold().replace("_", "")
