"""The base of all items of a response, and the items of hosted tools.

An item gets pieces (deltas) and final values (`done` events, the finished item, the output of the terminal event). It
emits pieces at once, and then the part of a final value that the pieces lacked. If they differ, the final value is in
the outcome, with a note. Items know nothing of event types or of which item an event means: the item table does.
"""

from tailrace.worker.interface.lenient import as_text, is_shallow
from tailrace.worker.interface.responses.event import JsonObject
from tailrace.worker.interface.responses.item_emitter import ItemEmitter


class ResponseItem:
    """The base of all items.

    Attributes:
        family: the item's type.
        id: the server's id of the item, if it gave one.
        index: the item's place in the output, if the server gave one.
        finished: the complete item, once it has arrived.
    """

    def __init__(self, family: str, emitter: ItemEmitter) -> None:
        self.family = family
        self.id: str | None = None
        self.index: int | None = None
        self.finished: JsonObject | None = None
        self._emitter = emitter

    @property
    def label(self) -> str:
        """The item's name in notes."""
        return f"{self.family} {self.id or self.index or ''}".rstrip()

    def keep_finished(self, item: JsonObject) -> None:
        """Keeps the first complete item, unless only a later one has the encrypted reasoning."""
        encrypted = "encrypted_content"
        if not is_shallow(item):
            self._emitter.notes.add_note(f"{self.label}: nested too deeply to be kept")
        elif self.finished is None or (item.get(encrypted) and not self.finished.get(encrypted)):
            self.finished = item

    def _note_difference(self, what: str) -> None:
        self._emitter.notes.add_note(f"{self.label}: the final value of its {what} differs from its pieces and is used")


class HostedItem(ResponseItem):
    """An item of a tool that the provider runs itself, or of an unknown type.

    The start of such a tool is shown as a tool-call delta with its type as the name, without arguments and with a
    negative number, since the caller has nothing to run and `tool_calls` does not list it. The finished item is kept.

    Args:
        number: negative, different for each item.
    """

    def __init__(self, family: str, number: int, emitter: ItemEmitter) -> None:
        super().__init__(family, emitter)
        self._number = number

    def announce(self, item: JsonObject) -> None:
        """Reads the item as it was added."""
        if self.family.endswith("_call") or self.family.startswith("mcp_"):
            self._emitter.deltas.add_tool_name(self._number, self.family, as_text(item.get("id")))

    def finish(self, item: JsonObject) -> None:
        """Reads the complete item, at its end or in the terminal event."""
        self.keep_finished(item)
        if item.get("status") == "failed" or item.get("error"):
            self._emitter.notes.add_note(f"{self.label}: the provider's tool failed")

    def drain(self) -> None:
        """Does nothing, since nothing is held back."""


def family_of(item: JsonObject) -> str:
    """The item's type; if it is missing, the type that its fields suggest."""
    given = as_text(item.get("type"))
    if given:
        return given
    if "arguments" in item:
        return "function_call"
    return "reasoning" if "summary" in item else "message"
