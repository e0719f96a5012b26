"""Finds the item that an event means: by item id, by output index, or as the only candidate.

Some servers name items by id and some by index; some change ids from event to event, leave out the index, or give every
item the same one. Knows nothing of event types or of what items do with the values they get.
"""

from collections.abc import Iterator

from tailrace.worker.interface.lenient import as_text
from tailrace.worker.interface.responses.call_item import CallItem
from tailrace.worker.interface.responses.event import JsonObject
from tailrace.worker.interface.responses.item import HostedItem, family_of
from tailrace.worker.interface.responses.item_emitter import ItemEmitter
from tailrace.worker.interface.responses.text_item import TextItem

CALL_FAMILIES = ("function_call", "custom_tool_call")
TEXT_FAMILIES = ("message", "reasoning")

AnyItem = TextItem | CallItem | HostedItem


class ItemTable:
    """The items of one response, in the order in which they appeared."""

    def __init__(self, emitter: ItemEmitter) -> None:
        self._emitter = emitter
        self._items: list[AnyItem] = []
        self._calls = 0
        self._hosted = 0
        self._last: tuple[tuple[str, str | None, int | None], AnyItem] | None = None

    def __iter__(self) -> Iterator[AnyItem]:
        return iter(self._items)

    def text_item(self, family: str, item_id: str | None, index: int | None) -> TextItem:
        """The message or reasoning item that an event means; a new one if none was announced."""
        item = self._find_or_add(family, item_id, index)
        if not isinstance(item, TextItem):
            raise TypeError(f"{family} items have no texts")
        return item

    def call_item(self, family: str, item_id: str | None, index: int | None) -> CallItem:
        """The tool call that an event means; a new one if none was announced."""
        item = self._find_or_add(family, item_id, index)
        if not isinstance(item, CallItem):
            raise TypeError(f"{family} items are no calls")
        return item

    def add_announced(self, fields: JsonObject, index: int | None) -> None:
        """Adds an announced item, unless there is one with its id and index."""
        family, item_id = family_of(fields), as_text(fields.get("id")) or None
        known = self._find_item(family, item_id, index, exactly=True)
        if known is None or known.finished is not None:
            known = self._add_item(family, item_id, index)
        known.announce(fields)

    def finish_item(self, fields: JsonObject, index: int | None) -> None:
        """Reads a complete item from its own `done` event."""
        family, item_id = family_of(fields), as_text(fields.get("id")) or None
        item = self._by_call_id(fields, self._items) or self._find_item(family, item_id, index)
        if item is None:
            item = self._add_item(family, item_id, index)
            item.announce(fields)
        item.finish(fields)

    def finish_all(self, items: list[JsonObject]) -> None:
        """Reads the whole output of the terminal event: each item is matched with a known one, or is new."""
        left = list(self._items)
        matched: list[tuple[int, JsonObject, AnyItem | None]] = []
        for position, fields in enumerate(items):
            item = self._find_exactly(fields, position, left)
            if item is not None:
                left.remove(item)
            matched.append((position, fields, item))
        for position, fields, exact in matched:
            item = exact or next((each for each in left if each.family == family_of(fields)), None)
            if item is None:
                item = self._add_item(family_of(fields), as_text(fields.get("id")) or None, position)
                item.announce(fields)
            elif exact is None:
                left.remove(item)
            item.finish(fields)

    def _find_exactly(self, fields: JsonObject, position: int, items: list[AnyItem]) -> AnyItem | None:
        if by_call := self._by_call_id(fields, items):
            return by_call
        alike = [item for item in items if item.family == family_of(fields)]
        item_id = as_text(fields.get("id"))
        by_id = (item for item in alike if item_id and item.id == item_id)
        return next(by_id, None) or next((item for item in alike if item.index == position), None)

    def _by_call_id(self, fields: JsonObject, items: list[AnyItem]) -> CallItem | None:
        call_id = as_text(fields.get("call_id"))
        for item in items:
            if call_id and isinstance(item, CallItem) and item.call_id == call_id:
                return item
        return None

    def _find_or_add(self, family: str, item_id: str | None, index: int | None) -> AnyItem:
        key = (family, item_id, index)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        item = self._find_item(family, item_id or None, index) or self._add_item(family, item_id or None, index)
        self._last = (key, item)
        return item

    def _find_item(
        self, family: str, item_id: str | None, index: int | None, *, exactly: bool = False
    ) -> AnyItem | None:
        """The item that matches best: by id and index, by id, by index, or, if there is no index to compare, the newest
        that is not finished.
        """
        best: AnyItem | None = None
        best_fit = 0
        for item in reversed(self._items):
            if item.family != family:
                continue
            same_id = item_id is not None and item_id in _names(item)
            same_index = index is not None and item.index == index
            adrift = (index is None or item.index is None) and item.finished is None
            fit = 4 if same_id and same_index else 3 if same_id else 2 if same_index else 1 if adrift else 0
            if fit > best_fit:
                best, best_fit = item, fit
        return None if exactly and best_fit < 4 else best

    def _add_item(self, family: str, item_id: str | None, index: int | None) -> AnyItem:
        item: AnyItem
        if family in TEXT_FAMILIES:
            item = TextItem(family, self._emitter)
        elif family in CALL_FAMILIES:
            item = CallItem(family, self._calls, self._emitter)
            self._calls += 1
        else:
            self._hosted += 1
            item = HostedItem(family, -self._hosted, self._emitter)
        item.id, item.index = item_id, index
        self._items.append(item)
        self._last = None
        return item


def _names(item: AnyItem) -> tuple[str | None, ...]:
    """The ids by which events may name the item; some servers send the call id as the item id."""
    return (item.id, item.call_id) if isinstance(item, CallItem) else (item.id,)
