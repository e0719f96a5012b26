"""The examples in docs/simulator.md run as printed, but for the port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tailrace.demo.simulator.library import NAMED
from tailrace.demo.simulator.scenario import parse_scenario

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
PRINTED = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    command = [sys.executable, "-m", "tailrace.demo.simulator", "--port", "0", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            yield json.loads(program.stdout.readline())["url"].removesuffix("/v1")
        finally:
            program.terminate()


@pytest.mark.parametrize("example", blocks("python"))
def test_python_examples(example: str, root: str) -> None:
    code = example.replace(PRINTED, root)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
@pytest.mark.parametrize("example", [block for block in blocks("sh") if block.startswith("curl")])
def test_curl_examples(example: str, root: str) -> None:
    shown = subprocess.run(["/bin/sh", "-c", example.replace(PRINTED, root)], check=True, timeout=30,
                           capture_output=True, text=True)  # fmt: skip
    assert '"send_message"' in shown.stdout or '"open_connections"' in shown.stdout


@pytest.mark.parametrize("example", blocks("json"))
def test_scenarios(example: str, root: str) -> None:
    # given: a scenario of the page, and a client that tries again
    scenario = json.loads(example)
    stalls = any(fault["kind"] == "stall" for fault in scenario.get("faults", ()))
    parse_scenario(scenario)

    with OpenAI(base_url=f"{root}/v1", api_key="any", max_retries=2, timeout=10) as client:

        def ask() -> int:
            chunks = client.chat.completions.create(
                model="sim",
                messages=[{"role": "user", "content": "Hi"}],
                stream=True,
                extra_body={"simulator": scenario},
            )
            seen = 0
            with chunks:
                for _ in chunks:
                    seen += 1
                    if stalls and seen == 3:
                        break
            return seen

        # expect: it plays; where the page says that a stream is cut off, the next one is whole
        if scenario.get("key") == "unlucky":
            with pytest.raises(openai.APIError):
                ask()
        assert ask() > 2


def test_every_named_scenario_is_on_the_page() -> None:
    assert not [name for name in NAMED if f"`sim-{name}`" not in PAGE]
