"""The parameters of a request as the arguments of a function: what the annotations say, with the field that does not fit.

Not here: the schema of an action, which the executor checks before (`schema` in the actions file).
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class InvalidParameters(Exception):
    """The parameters do not fit the function; `field` is where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Signature:
    """What a function takes, read once."""

    def __init__(self, function: Callable[..., Any], context: type) -> None:
        hints = typing.get_type_hints(function)
        hints.pop("return", None)
        parameters = list(inspect.signature(function).parameters.values())
        self.takes_context = bool(parameters) and (
            hints.get(parameters[0].name) is context
            or (parameters[0].name in ("ctx", "context") and parameters[0].name not in hints)
        )
        self._named: dict[str, tuple[Any, bool]] = {}
        self._takes_any = False
        for parameter in parameters[1:] if self.takes_context else parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self._takes_any = True
            elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                raise TypeError(f"{function.__qualname__}: parameters are given by name, and {parameter.name} has none")
            else:
                is_needed = parameter.default is inspect.Parameter.empty
                self._named[parameter.name] = (hints.get(parameter.name, Any), is_needed)

    def bind(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name."""
        arguments: dict[str, Any] = {}
        for name, value in parameters.items():
            if name in self._named:
                arguments[name] = convert(value, self._named[name][0], f"parameters.{name}")
            elif self._takes_any:
                arguments[name] = value
            else:
                raise InvalidParameters(f"parameters.{name}", "the action has no such parameter")
        for name, (_, is_needed) in self._named.items():
            if is_needed and name not in arguments:
                raise InvalidParameters(f"parameters.{name}", "is missing")
        return arguments


def convert(value: Any, wanted: Any, field: str) -> Any:
    """`value`, as JSON gives it, as `wanted`; never a guess: "1" is no number."""
    if wanted is Any or wanted is inspect.Parameter.empty or isinstance(wanted, typing.TypeVar):
        return value
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return _union(value, inner, field)
    if origin is typing.Annotated:
        return convert(value, inner[0], field)
    if origin is typing.Literal:
        if any(value == known and type(value) is type(known) for known in inner):
            return value
        raise _wrong(value, "one of " + ", ".join(map(repr, inner)), field)
    if origin is not None:
        return _container(value, origin, inner, field)
    if isinstance(wanted, type):
        return _plain(value, wanted, field)
    return value


def _union(value: Any, choices: Sequence[Any], field: str) -> Any:
    if value is None and type(None) in choices:
        return None
    choices = [choice for choice in choices if choice is not type(None)]
    wrong: InvalidParameters | None = None
    for choice in choices:
        try:
            return convert(value, choice, field)
        except InvalidParameters as error:
            wrong = wrong or error
    if wrong is not None and len(choices) == 1:
        raise wrong
    raise _wrong(value, " or ".join(_name(choice) for choice in choices), field)


def _container(value: Any, origin: Any, inner: Sequence[Any], field: str) -> Any:
    if origin in (list, set, frozenset, tuple, Sequence, typing.Sequence):
        if not isinstance(value, list):
            raise _wrong(value, "a list", field)
        if origin is tuple and inner[-1:] != (Ellipsis,):
            if len(value) != len(inner):
                raise _wrong(value, f"a list of {len(inner)}", field)
            return tuple(convert(item, kind, f"{field}[{at}]") for at, (item, kind) in enumerate(zip(value, inner)))
        items = [convert(item, inner[0] if inner else Any, f"{field}[{at}]") for at, item in enumerate(value)]
        return items if origin is list or origin is Sequence else origin(items)
    if origin in (dict, Mapping, typing.Mapping):
        if not isinstance(value, dict):
            raise _wrong(value, "an object", field)
        kind = inner[1] if len(inner) == 2 else Any
        return {name: convert(item, kind, f"{field}.{name}") for name, item in value.items()}
    return value


def _plain(value: Any, wanted: type, field: str) -> Any:
    if hasattr(wanted, "model_validate"):
        return _pydantic(value, wanted, field)
    if dataclasses.is_dataclass(wanted):
        return _dataclass(value, wanted, field)
    if issubclass(wanted, enum.Enum):
        try:
            return wanted(value)
        except ValueError:
            raise _wrong(value, "one of " + ", ".join(repr(known.value) for known in wanted), field) from None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted in (str, int, float, bool, list, dict, type(None)):
        if type(value) is wanted:
            return value
        raise _wrong(value, _name(wanted), field)
    return value


def _dataclass(value: Any, wanted: Any, field: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(value, "an object", field)
    hints = typing.get_type_hints(wanted)
    members = {member.name: member for member in dataclasses.fields(wanted) if member.init}
    for name in value:
        if name not in members:
            raise InvalidParameters(f"{field}.{name}", f"{wanted.__name__} has no such member")
    for name, member in members.items():
        has_default = (member.default, member.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if name not in value and not has_default:
            raise InvalidParameters(f"{field}.{name}", "is missing")
    return wanted(**{name: convert(item, hints[name], f"{field}.{name}") for name, item in value.items()})


def _pydantic(value: Any, wanted: Any, field: str) -> Any:
    try:
        return wanted.model_validate(value)
    except ValueError as error:
        details: list[dict[str, Any]] = getattr(error, "errors", list)()
        if not details:
            raise InvalidParameters(field, str(error)) from None
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in details[0]["loc"])
        raise InvalidParameters(field + place, details[0]["msg"]) from None


def _wrong(value: Any, expected: str, field: str) -> InvalidParameters:
    found = repr(value)
    return InvalidParameters(field, f"expected {expected}, found {found if len(found) <= 64 else found[:61] + '...'}")


_NAMES: dict[Any, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}


def _name(kind: Any) -> str:
    return _NAMES.get(kind) or str(getattr(kind, "__name__", kind))
