"""The base of every demo: a Valkey, a model server and a worker, each in a process of its own."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple

from tailrace.demo.parts import DemoError, Part, clean_environment, simulator_url
from tailrace.demo.valkey import EmbeddedValkey

SIMULATED_MODEL = "sim-letta"
SIMULATED_PLAIN_MODEL = "sim"
REAL_MODEL = "gpt-4.1-mini"
CHUNKS_PER_S = 30


class Stage(NamedTuple):
    """The running services.

    Attributes:
        model: the model for a tool call.
        plain_model: the model for a text.
        environment: the environment for commands that submit and tail.
    """

    model: str
    plain_model: str
    environment: Mapping[str, str]


def set_up(environment: Mapping[str, str], running: ExitStack, say: Callable[[str], None]) -> Stage:
    """Starts everything; closing `running` stops it.

    Args:
        environment: with `REAL=1` the real server is used, with its `OPENAI_*`; otherwise only the simulator.
        running: receives every started process.
        say: prints a progress message.

    Raises:
        DemoError: a part did not start.
    """
    real = environment.get("REAL") == "1"
    if real and not environment.get("OPENAI_API_KEY"):
        raise DemoError("REAL=1 uses the real OpenAI: set OPENAI_API_KEY, or leave REAL out for the simulated one")
    say("starting a Valkey, " + ("" if real else "a simulated OpenAI, ") + "and a worker, each in its own process")
    valkey = running.enter_context(EmbeddedValkey())
    upstream = _real_upstream(environment) if real else _simulated_upstream(running)
    producer = clean_environment({"TAILRACE_REDIS_URL": valkey.url})
    worker = running.enter_context(Part("the worker", ["worker"], producer | upstream))
    worker.first_line()
    asked = environment.get("MODEL", REAL_MODEL)
    return Stage(asked, asked, producer) if real else Stage(SIMULATED_MODEL, SIMULATED_PLAIN_MODEL, producer)


def _simulated_upstream(running: ExitStack) -> dict[str, str]:
    arguments = ["simulator", "--port", "0", "--quiet", "--chunks-per-s", str(CHUNKS_PER_S)]
    simulator = running.enter_context(Part("the simulator", arguments, clean_environment({})))
    return {"OPENAI_BASE_URL": simulator_url(simulator), "OPENAI_API_KEY": "simulated"}


def _real_upstream(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("OPENAI_")}
