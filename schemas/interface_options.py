"""The options of the interface: the one definition that requests, the worker and `tailrace replay` share.

A plain dataclass, which `GenerationRequest` validates and the interface reads: importing it does not import pydantic.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Len

ToolName = Annotated[str, Len(1, 256)]


@dataclass(frozen=True, slots=True)
class InterfaceOptions:
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

    __pydantic_config__: ClassVar = {"strict": True, "extra": "forbid"}

    use_assistant_message: bool = False
    put_inner_thoughts_in_kwarg: bool = True
    assistant_message_tool_name: ToolName = "send_message"
    assistant_message_tool_kwarg: ToolName = "message"
    inner_thoughts_kwarg: ToolName = "inner_thoughts"
    think_tags: Literal["keep", "reasoning"] = "keep"
