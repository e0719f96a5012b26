"""What a request wants of the interface, as plain values. The same names as `InterfaceOptions`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:  # pydantic is slow to import, and `tailrace replay` does without it
    from tailrace.schemas.request import InterfaceOptions


@dataclass(frozen=True, slots=True)
class Options:
    """How the model's answer is turned into deltas (docs/interface.md).

    Attributes:
        use_assistant_message: show a call of the assistant tool as assistant text.
        put_inner_thoughts_in_kwarg: take the inner thoughts out of tool arguments and show them as reasoning;
            False takes nothing out and holds nothing back.
        assistant_message_tool_name: the assistant tool.
        assistant_message_tool_kwarg: its argument that holds the text.
        inner_thoughts_kwarg: the argument that holds the inner thoughts.
        think_tags: `keep` leaves `<think>...</think>` in the text, `reasoning` makes it reasoning deltas.
    """

    use_assistant_message: bool = False
    put_inner_thoughts_in_kwarg: bool = True
    assistant_message_tool_name: str = "send_message"
    assistant_message_tool_kwarg: str = "message"
    inner_thoughts_kwarg: str = "inner_thoughts"
    think_tags: Literal["keep", "reasoning"] = "keep"

    @classmethod
    def of(cls, given: "InterfaceOptions") -> Self:
        """The options of a request."""
        return cls(
            given.use_assistant_message,
            given.put_inner_thoughts_in_kwarg,
            given.assistant_message_tool_name,
            given.assistant_message_tool_kwarg,
            given.inner_thoughts_kwarg,
            given.think_tags,
        )
