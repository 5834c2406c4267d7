"""A worker whose offsets are committed by Faust's own driver: what the safe commit is compared with.

Only here, in the tests; no setting of the product selects it. Acknowledging and committing are the driver's, untouched;
what the runner and the health pages ask of our consumer besides is answered with constants.
"""

from __future__ import annotations

from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from mode.utils.objects import cached_property

import streams.app
from streams.cli import main
from streams.watermark import Watermarks


class StockConsumer(driver.Consumer):
    """Faust's consumer, with the names that the runner reads."""

    redelivered_total = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.watermarks: Watermarks[Any] = Watermarks()
        super().__init__(*args, **kwargs)

    def owns(self, _message: Any) -> bool:
        return True

    def lag(self) -> int:
        return 0


class StockTransport(driver.Transport):
    """Faust's transport with the consumer above."""

    Consumer = StockConsumer


class StockApp(faust.App):
    """An app as Faust ships it."""

    @cached_property
    def transport(self) -> StockTransport:
        return StockTransport(self.conf.broker_consumer, self)


if __name__ == "__main__":
    streams.app.StageApp = StockApp  # type: ignore[misc,assignment]
    streams.app.check_app = lambda *_: None
    main()
