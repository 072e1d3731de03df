"""`python3 -m slotline module:app` serves the worker that started it."""

from __future__ import annotations

import importlib
import os
import sys

from ._app import App


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or ":" not in arguments[0]:
        print("usage: python3 -m slotline MODULE:APP", file=sys.stderr)
        return 2
    module, _, name = arguments[0].partition(":")
    # As for `python3 FILE`: what lies in the folder of the handler can be imported.
    sys.path.insert(0, os.getcwd())
    app = getattr(importlib.import_module(module), name)
    if not isinstance(app, App):
        print(f"{arguments[0]} is no slotline.App", file=sys.stderr)
        return 2
    return app.serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
