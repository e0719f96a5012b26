"""The demo with `--watch`: serves a gateway with its page, on the demo's services, until it is interrupted."""

from collections.abc import Mapping
from contextlib import ExitStack

from tailrace.demo.parts import DemoError, Part
from tailrace.demo.stage import set_up


def watch(environment: Mapping[str, str], port: int) -> None:
    """Serves the page until Ctrl-C or SIGTERM.

    Args:
        environment: as for the tour.
        port: the port of the page, on 127.0.0.1; 0 chooses a free one.

    Raises:
        TailraceError: a part did not start, or the gateway ended by itself.
    """
    with ExitStack() as running:
        stage = set_up(environment, running, _say)
        try:
            served = ["gateway", "--open", "--port", str(port)]
            gateway = running.enter_context(Part("the gateway", served, stage.environment))
            address = gateway.first_line().rpartition(" ")[2]
            _say(f"open {address}/ in a browser: type a prompt or pick an answer, and watch it arrive")
            _say("Ctrl-C stops everything")
            gateway.wait(within_s=None)
        except KeyboardInterrupt:
            _say("stopping everything")
            return
        raise DemoError(f"the gateway ended{gateway.last_words}")


def _say(text: str) -> None:
    print(text, flush=True)
