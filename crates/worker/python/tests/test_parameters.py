"""Arguments from annotations, and the field that does not fit."""

from __future__ import annotations

import dataclasses
import enum
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Optional

sys.path.insert(0, str(Path(__file__).parent.parent))

from slotline import Context, InvalidParameters
from slotline._parameters import Signature


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Page:
    number: int
    title: str = ""


class Model:
    """As pydantic's: it checks by itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        if value == "bad":
            error = ValueError("bad")
            setattr(error, "errors", lambda: [{"loc": ("inner", 0), "msg": "is bad"}])
            raise error
        return cls(value)


def bind(function: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
    return Signature(function, Context).bind(parameters)


class Parameters(unittest.TestCase):
    def refused(self, function: Callable[..., Any], message: str, **parameters: Any) -> None:
        with self.assertRaises(InvalidParameters) as caught:
            bind(function, **parameters)
        self.assertEqual(str(caught.exception), message)

    def test_a_value_is_taken_as_its_annotation_says(self) -> None:
        def function(
            ctx: Context,
            n: int,
            x: float,
            pages: list[Page],
            colour: Colour,
            sizes: dict[str, int],
            pair: tuple[int, str],
            kind: Literal["a", 1],
            model: Model,
            anything: Any,
            maybe: Optional[int] = None,
            either: int | str = 0,
        ) -> None: ...

        bound = bind(
            function, n=1, x=2, pages=[{"number": 1}], colour="red", sizes={"a": 1}, pair=[1, "b"], kind=1, model=[1],
            anything=None, either="text",
        )
        self.assertEqual((bound["n"], bound["x"], bound["pages"]), (1, 2.0, [Page(1)]))
        self.assertIsInstance(bound["x"], float)
        self.assertEqual((bound["colour"], bound["pair"], bound["either"]), (Colour.RED, (1, "b"), "text"))
        self.assertEqual(bound["model"].value, [1])
        self.assertNotIn("maybe", bound, "its default counts")

    def test_what_does_not_fit_is_named_by_its_field(self) -> None:
        def function(n: int = 0, pages: list[Page] | None = None, on: bool = False, model: Model | None = None) -> None: ...

        self.refused(function, "parameters.n: expected a whole number, found True", n=True)
        self.refused(function, "parameters.n: expected a whole number, found '1'", n="1")
        self.refused(function, "parameters.on: expected true or false, found 1", on=1)
        self.refused(function, "parameters.pages[1].number: is missing", pages=[{"number": 1}, {}])
        self.refused(function, "parameters.pages[0].nummer: Page has no such member", pages=[{"nummer": 1}])
        self.refused(function, "parameters.model.inner[0]: is bad", model="bad")
        self.refused(function, "parameters.m: the action has no such parameter", m=1)

    def test_a_function_with_keywords_of_its_own_takes_any(self) -> None:
        def function(context, n: int, **rest: Any): ...  # type: ignore[no-untyped-def]

        signature = Signature(function, Context)
        self.assertTrue(signature.takes_context)
        self.assertEqual(signature.bind({"n": 1, "more": 2}), {"n": 1, "more": 2})

    def test_a_function_whose_parameters_have_no_names_is_refused_at_its_declaration(self) -> None:
        def function(*values: int) -> None: ...

        with self.assertRaisesRegex(TypeError, "values has none"):
            Signature(function, Context)


if __name__ == "__main__":
    unittest.main()
