"""`tailrace replay`: decodes a recorded response as a worker does, without Redis.

Owns the command's arguments, the reading of the file in pieces, and the lines that it prints.
`tailrace.worker.interface.stream_decoder` reads the body, as in the worker, so the two cannot differ.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

import msgspec

from tailrace.command_line import CommandParser, print_error
from tailrace.schemas.deltas import Api, Delta
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.stream_decoder import StreamDecoder

PIECE_BYTES = 64 * 1024

_EXAMPLE = """\
curl -sN https://api.openai.com/v1/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -d @request.json > answer.sse && tailrace replay answer.sse
"""
_MORE = """\
FILE is the body as the server sent it (server-sent events), or one JSON chunk per line; its first bytes decide which.
The exit code is 1 if the outcome failed, as it does for a broken file.
"""


def replay(argv: Sequence[str]) -> int:
    """Prints one JSON line per delta, as it would be published, and at the end a line `{"outcome": {...}}`.

    Args:
        argv: the command's arguments, without its name.

    Returns:
        The exit code: 0, or 1 if the outcome failed or the file cannot be read.
    """
    given = _parser().parse_args(argv)
    options = InterfaceOptions(
        use_assistant_message=given.assistant_message,
        put_inner_thoughts_in_kwarg=not given.no_inner_thoughts,
        think_tags="reasoning" if given.think_tags else "keep",
    )
    decoder = StreamDecoder(cast("Api", given.api), options)
    try:
        with _opened(given.file) as file:
            for piece in _pieces(file, decoder):
                _print(decoder.feed(piece))
    except OSError as error:
        _print(decoder.close())
        reason = error.strerror or error
        print_error(f"tailrace replay: {given.file}: {reason}")
        return 1
    _print(decoder.close())
    outcome = decoder.finish()
    sys.stdout.buffer.write(_encode({"outcome": outcome}) + b"\n")
    sys.stdout.buffer.flush()
    return 1 if outcome.status == "failed" else 0


_encode = msgspec.json.Encoder().encode


def _parser() -> CommandParser:
    parser = CommandParser(
        "replay",
        description="Show the deltas and the outcome of a recorded response of a model.",
        example=_EXAMPLE,
        more=_MORE,
    )
    parser.add_argument("file", metavar="FILE", help="the recorded body; - for standard input")
    parser.add_argument(
        "--api",
        choices=("chat", "responses"),
        default="chat",
        help="the API that the response came from (default: chat)",
    )
    parser.add_argument("--assistant-message", action="store_true", help="show calls of send_message as assistant text")
    parser.add_argument("--no-inner-thoughts", action="store_true", help="leave inner_thoughts in the arguments")
    parser.add_argument("--think-tags", action="store_true", help="show text between <think> and </think> as reasoning")
    return parser


class _opened:
    """Opens the file, or standard input, which is not closed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._file: BinaryIO | None = None

    def __enter__(self) -> BinaryIO:
        if self._name == "-":
            return sys.stdin.buffer
        self._file = open(self._name, "rb")
        return self._file

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _pieces(file: BinaryIO, decoder: StreamDecoder) -> Iterator[bytes]:
    """Yields the file in pieces, as soon as each can be read, until the answer has ended."""
    read = getattr(file, "read1", file.read)
    while not decoder.done and decoder.failure is None and (piece := read(PIECE_BYTES)):
        yield piece


def _print(deltas: list[Delta]) -> None:
    if deltas:
        sys.stdout.buffer.write(b"".join(_encode(delta) + b"\n" for delta in deltas))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(replay(sys.argv[1:]))
