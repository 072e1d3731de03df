"""Actions of Slotline as Python functions.

    import slotline

    app = slotline.App()

    @app.action("report.render")
    def render(ctx: slotline.Context, customer: str, pages: int = 1) -> dict[str, str]:
        for page in ctx.track(range(pages), unit="pages"):
            ctx.raise_if_cancelled()
        return {"url": f"https://example.com/{customer}"}

`python3 -m slotline module:app` is the command of a `[[handler]]`; `slotline worker` starts it and keeps every promise
about leases and fences. Also here: `slotline.client` (HTTP), `slotline.amqp` (a publisher and a subscriber, with pika)
and `slotline.testing` (a function of an action, with nothing running).
"""

from ._app import App
from ._context import Cancelled, Context, Fail, LogHandler, current
from ._parameters import InvalidParameters

__all__ = ["App", "Cancelled", "Context", "Fail", "InvalidParameters", "LogHandler", "current"]
__version__ = "0.1.0"
