"""The root command: its help, its imports, its exit codes."""

import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

from tailrace.producers.cli.root import GROUP, main

NAMES = sorted(found.name for found in entry_points(group=GROUP))


def test_help_lists_every_command_on_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in NAMES:
        [line] = [line for line in lines if line.split()[:1] == [name] and line.startswith("  ")]
        assert len(line.split()) > 2, "a command without a description"


def test_help_imports_no_command_and_nothing_slow() -> None:
    program = (
        "import sys; from tailrace.producers.cli.root import main; main(['--help']);"
        "print(sorted({name.removeprefix('tailrace.').partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    loaded = done.stderr
    for heavy in ("worker", "demo", "redis", "arq", "pydantic", "openai", "msgspec", "asyncio", "prometheus_client"):
        assert f"'{heavy}'" not in loaded, f"--help imports {heavy}"


@pytest.mark.parametrize("modules", ["producers.cli.requests, tailrace.producers.client", "worker.app"])
def test_what_serves_no_metrics_does_not_import_their_library(modules: str) -> None:
    # given all that `tailrace submit` imports, or a worker without a port for metrics, expect no prometheus_client
    program = f"import sys, tailrace.{modules}; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], timeout=30, check=True)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tailrace {version('tailrace')}\n"


def test_without_a_command_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "commands:" in captured.err


@pytest.mark.parametrize(("typed", "meant"), [("sumbit", "submit"), ("tial", "tail"), ("cancle", "cancel")])
def test_an_unknown_command_gets_a_suggestion(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"tailrace: there is no command {typed!r}; did you mean `tailrace {meant}`?\n"


def test_an_unknown_command_without_suggestion_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy\nplugh"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: tailrace {name} ")
    _, example = printed.split("\nexample:\n  ")
    assert f"tailrace {name}" in example.split("\n\n")[0]
    assert len(printed.splitlines()) < 30


@pytest.mark.parametrize("name", NAMES)
def test_wrong_usage_of_each_command_prints_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--no-such-option", "with a\nvalue"])
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith(f"tailrace {name}: ")
    assert line.endswith(f"(see tailrace {name} --help)")
