"""The gateway's command without its extra."""

import sys

import pytest

from tailrace.producers.cli.root import main


def _no_starlette(name: str) -> object | None:
    return None if name == "starlette" else object()


def test_without_the_extra_the_command_prints_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setattr("tailrace.producers.gateway.cli.find_spec", _no_starlette)
    assert main(["gateway", "--open"]) == 1
    printed = capsys.readouterr().err
    assert "pip install 'tailrace[web]'" in printed
    assert printed.count("\n") == 1


def test_the_help_needs_no_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    for name in ("gateway", "key"):
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
    assert "example:" in capsys.readouterr().out
