"""The cases of `tests/kernels` on the device, without pytest: the little of it that they use.

A case file that needs more of pytest than this fails where it asks for it, and so does the check.
"""

import contextlib
import importlib
import inspect
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

Case = tuple[str, Callable[[], None]]


class MonkeyPatch:
    """Attributes that have another value until `undo`."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()

    def setattr(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute that exists."""
        self._undo.enter_context(mock.patch.object(owner, name, value))

    def undo(self) -> None:
        """Put back what was replaced, the last first."""
        self._undo.close()


@contextlib.contextmanager
def raises(kind: type[Exception], match: str = "") -> Iterator[None]:
    """Fail unless the block raises this error with a text that matches."""
    told = None
    try:
        yield
    except kind as error:
        told = str(error)
    assert told is not None, f"{kind.__name__} was not raised"
    assert re.search(match, told), f"{match!r} does not match {told!r}"


def parametrize(names: str | tuple[str, ...], values: Any, ids: Any = None) -> Any:
    """Run a test once for each value of an argument, or of several at a time."""
    names = (names,) if isinstance(names, str) else tuple(names)
    given = [value if len(names) > 1 else (value,) for value in values]
    told = list(ids) if ids is not None else ["-".join(map(_told, value)) for value in given]
    axis = [
        (name, dict(zip(names, value, strict=True)))
        for name, value in zip(told, given, strict=True)
    ]

    def mark(test: Any) -> Any:
        test.axes = [axis, *getattr(test, "axes", [])]
        return test

    return mark


def fixture(function: Any = None, *, autouse: bool = False) -> Any:
    """What runs before each test of its file; one that tests ask for by name is not supported, and
    tests that do so fail."""
    if function is None:
        return lambda function: fixture(function, autouse=autouse)
    function.before_each = autouse
    return function


def load(name: str) -> types.ModuleType:
    """A file of cases, imported with this in pytest's place."""
    stand_in: Any = types.ModuleType("pytest")
    stand_in.MonkeyPatch, stand_in.fixture, stand_in.raises = MonkeyPatch, fixture, raises
    stand_in.mark = types.SimpleNamespace(parametrize=parametrize, long=lambda test: test)
    before = sys.modules.get("pytest")
    sys.modules["pytest"] = stand_in
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["pytest"]
        if before is not None:
            sys.modules["pytest"] = before


def cases_of(name: str) -> Iterator[Case]:
    """Every test of a file with every choice of its arguments, ready to run."""
    module = load(name)
    own = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == name]
    before = [function for function in own if getattr(function, "before_each", False)]
    for test in own:
        if not test.__name__.startswith("test_"):
            continue
        words = test.__name__.removeprefix("test_").replace("_", " ")
        for choice in itertools.product(*getattr(test, "axes", [])):
            arguments = {name: value for _, chosen in choice for name, value in chosen.items()}
            told = f" [{'-'.join(told for told, _ in choice)}]" if choice else ""
            yield words + told, _ready(test, arguments, before)


def _ready(test: Any, arguments: dict[str, Any], before: list[Any]) -> Callable[[], None]:
    def run() -> None:
        patch = MonkeyPatch()
        try:
            for function in before:
                function(*[patch] * len(inspect.signature(function).parameters))
            test(**arguments)
        finally:
            patch.undo()

    return run


def _told(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value).removeprefix("torch.")
