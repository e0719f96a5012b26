"""The screen that follows one request: the output of `tailrace tail` in a pane, bounded in size."""

import io
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer, TextArea

from tailrace.producers.cli.show import TerminalView, visible
from tailrace.producers.client import Client
from tailrace.schemas.errors import TailraceError

SHOWN_MAX = 200_000
"""Characters kept; older ones are dropped."""
DRAW_EVERY_S = 0.1


class _UndrawnText(io.StringIO):
    """Collects what the view writes until the next drawing."""

    def take_text(self) -> str:
        """Returns the collected text and empties the buffer."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


class Follow(Screen[None]):
    """Follows one request from its beginning.

    Args:
        client: the client to tail with.
        request_id: the request.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,backspace", "dismiss", "Back")]

    def __init__(self, client: Client, request_id: str) -> None:
        super().__init__()
        self._client = client
        self.request_id = request_id
        self._undrawn = _UndrawnText()
        self._text = TextArea(read_only=True, soft_wrap=True, show_line_numbers=False, id="tail")
        self._text.border_title = visible(request_id, None).replace("[", "\\[")

    def compose(self) -> ComposeResult:
        """Lays out the text and the keys."""
        yield self._text
        yield Footer()

    def on_mount(self) -> None:
        """Starts the tail."""
        self._text.focus()
        self.run_worker(self._tail(), exit_on_error=False)
        self.set_interval(DRAW_EVERY_S, self._draw)

    async def _tail(self) -> None:
        view = TerminalView(self._undrawn, colours=False)
        try:
            async with self._client.tail(self.request_id) as tail:
                async for item in tail:
                    view.show(item)
        except TailraceError as error:
            self._undrawn.write(f"\n[cannot follow] {visible(str(error), None)}\n")

    def _draw(self) -> None:
        """Runs a few times per second, whatever the rate of deltas, because drawing is expensive."""
        new = self._undrawn.take_text()
        if not new:
            return
        is_at_end = self._text.scroll_y >= self._text.max_scroll_y - 1
        self._text.insert(new[-SHOWN_MAX:], self._text.document.end)
        if (over := len(self._text.text) - SHOWN_MAX) > 0:
            self._text.load_text(self._text.text[over:])
        if is_at_end:
            self._text.scroll_end(animate=False)
