"""The public words of a package, each imported from its module when it is first used: starting porter loads nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def words(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`; `modules` says for each word the module below the package that has it."""

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return find
