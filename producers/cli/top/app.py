"""The screen of `tailrace top`: four tables under a summary, refreshed periodically.

Owns the layout, the keys and the refresh. `rows.py` computes the tables; `follow.py` is the screen of one request.
Untrusted text is drawn as plain text, never as markup.
"""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Label

from tailrace.producers.cli.show import visible
from tailrace.producers.cli.top import rows
from tailrace.producers.cli.top.follow import Follow
from tailrace.producers.cli.top.rows import Row
from tailrace.producers.client import Client
from tailrace.producers.queue.dead_letters import DeadLetter
from tailrace.producers.queue.overview import Overview
from tailrace.schemas.errors import TailraceError

DEAD_SHOWN = 50


class Table(DataTable[Text]):
    """A table whose selected row stays selected when rows are added or removed."""

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True)
        self.border_title = title
        self._titles = columns

    def on_mount(self) -> None:
        """Adds the columns."""
        for place, title in enumerate(self._titles):
            self.add_column(title, key=str(place))

    def selected_key(self) -> str | None:
        """The key of the selected row."""
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value if self.row_count else None

    def replace_rows(self, found: Sequence[Row]) -> None:
        """Replaces all rows."""
        selected, place, scroll_y = self.selected_key(), self.cursor_row, self.scroll_y
        self.clear()
        for row in found:
            self.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row.cells), key=row.key)
        keys = [row.key for row in found]
        self.move_cursor(
            row=keys.index(selected) if selected in keys else min(place, max(len(keys) - 1, 0)), scroll=False
        )
        self.scroll_to(y=scroll_y, animate=False, force=True)


class Confirm(ModalScreen[bool]):
    """Asks before a request is cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes, cancel it"),
        Binding("n,escape", "dismiss(False)", "No"),
    ]

    def __init__(self, request_id: str) -> None:
        super().__init__()
        self._request_id = request_id

    def compose(self) -> ComposeResult:
        """Lays out the question and its answers."""
        with Vertical(id="confirm"):
            yield Label(Text(f"Cancel {visible(self._request_id, None)}?\n\ny  yes, cancel it    n  no"))


class Top(App[None]):
    """Shows an overview, live.

    Args:
        client: the client to ask.
        every_s: seconds between refreshes.
        runs_max: how many requests in progress to list, at most.
    """

    TITLE = "tailrace top"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", priority=False),
        Binding("c", "cancel", "Cancel"),
        Binding("p", "pause", "Pause"),
        Binding("r", "refresh_now", "Refresh"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, client: Client, *, every_s: float, runs_max: int = 200) -> None:
        super().__init__()
        self._client = client
        self._every_s = every_s
        self._runs_max = runs_max
        self._rates = rows.Rates()
        self._is_paused = False
        self._is_refreshing = False
        self._summary = Label(id="summary")
        self._note = Label(id="note")
        self._worker_table = Table("workers", rows.WORKER_COLUMNS)
        self._lane_table = Table("waiting", rows.LANE_COLUMNS)
        self._run_table = Table("requests in progress", rows.RUN_COLUMNS)
        self._dead_table = Table("dead letters", rows.DEAD_COLUMNS)

    def compose(self) -> ComposeResult:
        """Lays out the summary and the tables."""
        yield self._summary
        yield self._note
        with Horizontal(id="above"):
            yield self._worker_table
            yield self._lane_table
        self._run_table.id, self._dead_table.id = "runs", "dead"
        yield self._run_table
        yield self._dead_table
        yield Footer()

    async def on_mount(self) -> None:
        """Refreshes at once, then every `every_s` seconds."""
        self._run_table.focus()
        await self._refresh_overview()
        self.set_interval(self._every_s, self._refresh_unless_paused)

    async def _refresh_unless_paused(self) -> None:
        if not self._is_paused:
            await self._refresh_overview()

    async def _refresh_overview(self) -> None:
        """Refreshes once. Only one refresh runs at a time, so a slow Redis gets no more calls than it answers."""
        if self._is_refreshing:
            return
        self._is_refreshing = True
        try:
            overview = await self._client.overview(runs_max=self._runs_max)
            letters = await self._client.dead.list(DEAD_SHOWN) if overview.dead else []
        except TailraceError as error:
            self._set_note(f"cannot refresh: {error}")
        else:
            self._show_overview(overview, letters)
        finally:
            self._is_refreshing = False

    def _show_overview(self, overview: Overview, letters: Sequence[DeadLetter]) -> None:
        self._rates.update(overview)
        self._summary.update(Text(rows.summary(overview, self._rates)))
        self._worker_table.replace_rows(rows.workers(overview.workers))
        self._lane_table.replace_rows(rows.lanes(overview.lanes))
        self._run_table.replace_rows(rows.runs(overview.runs, self._rates))
        self._dead_table.replace_rows(rows.dead(letters))
        self._dead_table.display = bool(letters)
        self._set_note("paused; press p to resume" if self._is_paused else "")

    def _show_toast(self, line: str) -> None:
        """Shows the result of a key for a few seconds, on any screen and across refreshes."""
        self.notify(visible(line, None), markup=False)

    def _set_note(self, line: str) -> None:
        """Sets the line under the summary, and hides it when empty."""
        self._note.update(Text(visible(line, None)))
        self._note.display = bool(line)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disables the keys of the tables while a request is followed."""
        return not (isinstance(self.screen, Follow) and action in ("open", "pause", "refresh_now"))

    def _selected_request(self, *tables: Table) -> str | None:
        """The followed request, or the selected one in the table that has the focus."""
        if isinstance(self.screen, Follow):
            return self.screen.request_id
        return next((table.selected_key() for table in tables if table is self.focused), None)

    def on_data_table_row_selected(self, _event: DataTable.RowSelected) -> None:
        """Handles Enter, or a click on the selected row."""
        self.action_open()

    def action_open(self) -> None:
        """Follows the selected request."""
        if request_id := self._selected_request(self._run_table, self._dead_table):
            self.push_screen(Follow(self._client, request_id))
        else:
            self._show_toast("select a request first; Tab moves between tables")

    async def action_cancel(self) -> None:
        """Cancels the selected request after a confirmation."""
        request_id = self._selected_request(self._run_table)
        if request_id is None:
            self._show_toast("select a request in progress first")
            return

        def answered(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.run_worker(self._cancel(request_id), exit_on_error=False)

        self.push_screen(Confirm(request_id), answered)

    async def _cancel(self, request_id: str) -> None:
        try:
            result = await self._client.cancel(request_id)
        except TailraceError as error:
            self._show_toast(f"cannot cancel {request_id}: {error}")
            return
        self._show_toast(
            f"{request_id}: {'its worker was asked to stop' if result.verdict == 'signalled' else result.verdict}"
        )
        await self._refresh_overview()

    async def action_refresh_now(self) -> None:
        """Refreshes now."""
        await self._refresh_overview()

    async def action_pause(self) -> None:
        """Pauses or resumes the refresh."""
        self._is_paused = not self._is_paused
        self._set_note("paused; press p to resume" if self._is_paused else "")
        await self._refresh_unless_paused()
