"""The Tiltfile, run by a Starlark interpreter with builtins that write down what they are given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import starlark

from devenv.layout import ROOT

#: The builtins of Tilt that the Tiltfile may use; one that is not here ends the run with an error.
BUILTINS = (
    "k8s_yaml", "k8s_resource", "local_resource", "docker_build", "sync", "fall_back_on", "kustomize", "blob", "link"
)  # fmt: skip
OBJECTS = ("ui_button", "cmd")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a builtin."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the resource, button or command that it declares."""
        return str(self.options.get("new_name") or self.options.get("name") or self.arguments[0])


@dataclass(frozen=True, slots=True)
class Tiltfile:
    """All calls, by builtin."""

    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, text: str) -> Tiltfile:
        """Raises starlark.StarlarkError where it is no Starlark or uses what is unknown."""
        told, module = cls(), starlark.Module()
        for name in BUILTINS:
            module.add_callable(name, told._noting(name))
        module.add_callable("read_file", told._reading)
        for name in OBJECTS:
            module.add_callable(f"v1alpha1_{name}", told._noting(name))
        names = ", ".join(f"{name} = v1alpha1_{name}" for name in OBJECTS)
        # As in Tilt: this is an object with functions in it.
        dialect = starlark.Dialect.extended()
        libraries = starlark.Globals.extended_by([starlark.LibraryExtension.StructType])
        starlark.eval(module, starlark.parse("Tiltfile", f"v1alpha1 = struct({names})\n{text}", dialect), libraries)
        return told

    def _reading(self, path: str) -> str:
        self.calls["read_file"].append(Call((path,), {}))
        return (ROOT / path).read_text()

    def _noting(self, name: str) -> Callable[..., dict[str, Any]]:
        def note(*arguments: Any, **options: Any) -> dict[str, Any]:
            self.calls[name].append(Call(arguments, options))
            return {"builtin": name, "arguments": list(arguments), **options}

        return note
