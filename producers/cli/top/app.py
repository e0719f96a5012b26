"""The screen of `tailrace top`: four tables under a summary, looked up anew each second.

Owns the screen, its keys and when to look. What stands in the tables is `rows`; the followed request is `follow`.
Text of others is drawn as plain text, never as markup.
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
    """A table whose chosen row stays chosen when rows come and go."""

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True)
        self.border_title = title
        self._titles = columns

    def on_mount(self) -> None:
        """Sets the columns."""
        for place, title in enumerate(self._titles):
            self.add_column(title, key=str(place))

    def chosen(self) -> str | None:
        """The key of the chosen row."""
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value if self.row_count else None

    def show(self, found: Sequence[Row]) -> None:
        """Replaces all rows."""
        chosen, place, scroll_y = self.chosen(), self.cursor_row, self.scroll_y
        self.clear()
        for row in found:
            self.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row.cells), key=row.key)
        keys = [row.key for row in found]
        self.move_cursor(row=keys.index(chosen) if chosen in keys else min(place, max(len(keys) - 1, 0)), scroll=False)
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
        """A question and its two answers."""
        with Vertical(id="confirm"):
            yield Label(Text(f"Cancel {visible(self._request_id, None)}?\n\ny  yes, cancel it    n  no"))


class Top(App[None]):
    """How things stand, live.

    Args:
        client: where to look.
        every_s: seconds between two looks.
        runs_max: of how many that have begun, at most, record and log are looked at.
    """

    TITLE = "tailrace top"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", priority=False),
        Binding("c", "cancel", "Cancel"),
        Binding("p", "pause", "Pause"),
        Binding("r", "refresh_now", "Look now"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, client: Client, *, every_s: float, runs_max: int = 200) -> None:
        super().__init__()
        self._client = client
        self._every_s = every_s
        self._runs_max = runs_max
        self._rates = rows.Rates()
        self._is_paused = False
        self._is_looking = False
        self._summary = Label(id="summary")
        self._note = Label(id="note")
        self._worker_table = Table("workers", rows.WORKER_COLUMNS)
        self._lane_table = Table("waiting", rows.LANE_COLUMNS)
        self._run_table = Table("requests that have begun", rows.RUN_COLUMNS)
        self._dead_table = Table("dead letters", rows.DEAD_COLUMNS)

    def compose(self) -> ComposeResult:
        """Summary, workers beside what waits, what runs, what died."""
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
        """Looks at once, and from then on each `every_s`."""
        self._run_table.focus()
        await self._look()
        self.set_interval(self._every_s, self._look_unless_paused)

    async def _look_unless_paused(self) -> None:
        if not self._is_paused:
            await self._look()

    async def _look(self) -> None:
        """One look, one at a time: a slow Redis is asked no more often than it answers."""
        if self._is_looking:
            return
        self._is_looking = True
        try:
            seen = await self._client.overview(runs_max=self._runs_max)
            letters = await self._client.dead.list(DEAD_SHOWN) if seen.dead else []
        except TailraceError as error:
            self._say(f"cannot look: {error}")
        else:
            self._show(seen, letters)
        finally:
            self._is_looking = False

    def _show(self, seen: Overview, letters: Sequence[DeadLetter]) -> None:
        self._rates.look(seen)
        self._summary.update(Text(rows.summary(seen, self._rates)))
        self._worker_table.show(rows.workers(seen.workers))
        self._lane_table.show(rows.lanes(seen.lanes))
        self._run_table.show(rows.runs(seen.runs, self._rates))
        self._dead_table.show(rows.dead(letters))
        self._dead_table.display = bool(letters)
        self._say("paused: p goes on" if self._is_paused else "")

    def _answer(self, line: str) -> None:
        """What a key has led to: over whatever is on the screen, for some seconds, however often it looks meanwhile."""
        self.notify(visible(line, None), markup=False)

    def _say(self, line: str) -> None:
        """How looking goes."""
        self._note.update(Text(visible(line, None)))
        self._note.display = bool(line)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is of the tables has no key while one request is followed."""
        return not (isinstance(self.screen, Follow) and action in ("open", "pause", "refresh_now"))

    def _chosen(self, *tables: Table) -> str | None:
        """The request that is followed, or the one chosen in that of these tables that has the focus."""
        if isinstance(self.screen, Follow):
            return self.screen.request_id
        return next((table.chosen() for table in tables if table is self.focused), None)

    def on_data_table_row_selected(self, _event: DataTable.RowSelected) -> None:
        """Enter, or a click on the chosen row."""
        self.action_open()

    def action_open(self) -> None:
        """Follows the chosen request."""
        if request_id := self._chosen(self._run_table, self._dead_table):
            self.push_screen(Follow(self._client, request_id))
        else:
            self._answer("choose a request first: Tab moves from table to table")

    async def action_cancel(self) -> None:
        """Cancels the chosen request, if it is meant."""
        request_id = self._chosen(self._run_table)
        if request_id is None:
            self._answer("choose a request that has begun first")
            return

        def answered(is_meant: bool | None) -> None:
            if is_meant:
                self.run_worker(self._cancel(request_id), exit_on_error=False)

        self.push_screen(Confirm(request_id), answered)

    async def _cancel(self, request_id: str) -> None:
        try:
            verdict = await self._client.cancel(request_id)
        except TailraceError as error:
            self._answer(f"{request_id} is not cancelled: {error}")
            return
        self._answer(f"{request_id}: {'its worker has been told' if verdict.word == 'signalled' else verdict.word}")
        await self._look()

    async def action_refresh_now(self) -> None:
        """Looks now."""
        await self._look()

    async def action_pause(self) -> None:
        """Stops looking, or goes on."""
        self._is_paused = not self._is_paused
        self._say("paused: p goes on" if self._is_paused else "")
        await self._look_unless_paused()
