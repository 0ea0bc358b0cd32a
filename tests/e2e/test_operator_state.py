"""What an operator said is kept: over a restart, a hand-over and a reload; shown, reminded of, and not done by accident."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import time

import pytest
from websockets.sync.client import connect

from rig import gate
from rig.operator import request, status
from rig.raw import TIMEOUT
from test_handover import config as handover_config

RESUME = "/v1/upstreams/main/resume"


@pytest.fixture
def clients():
    """Clients that stay until the end of the test."""
    with contextlib.ExitStack() as stack:
        yield stack


def at(wsgate):
    return ["--admin", "{}:{}".format(*wsgate.admin)]


def drain(wsgate, server, *more):
    code, shown = gate.run(["drain", "main", "--server", server.address, *more, *at(wsgate)])
    assert code == 0, shown


def states(wsgate, servers):
    known = status(wsgate)
    return [known[server.address]["state"] for server in servers]


def assert_all_go_to(server, wsgate):
    before = status(wsgate)[server.address]["connections"]
    with contextlib.ExitStack() as clients:
        for _ in range(6):
            clients.enter_context(connect(f"ws://{wsgate.url}"))
        assert status(wsgate)[server.address]["connections"] == before + 6


def test_a_drained_server_stays_drained_after_a_restart(start, servers, tmp_path):
    file = tmp_path / "state" / "state.json"
    file.parent.mkdir()
    text = f'state_file = "{file}"\n' + start.config(servers)
    wsgate = start(text=text)
    drain(wsgate, servers[0])
    assert file.stat().st_mode & 0o777 == 0o600
    wsgate.stop()
    start.running.remove(wsgate)

    wsgate = start(text=text)
    line = wsgate.wait_for_log(lambda line: "stays drained" in line, "that it is restored")
    assert servers[0].address in line and "127.0.0.1" in line, line
    assert states(wsgate, servers) == ["drained", "up"]
    assert_all_go_to(servers[1], wsgate)
    out = status(wsgate)[servers[0].address]["out"]
    assert out["reason"] == "drained" and "127.0.0.1" in out["by"], out
    code, shown = gate.run(["resume", "main", *at(wsgate)])
    assert (code, f"{servers[0].address} takes new connections again" in shown) == (0, True), shown
    assert json.loads(file.read_text()) == {"version": 1, "drained": []}


def test_the_unit_names_the_place(start, servers, tmp_path, monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    wsgate = start()
    drain(wsgate, servers[0])
    assert json.loads((tmp_path / "state.json").read_text())["drained"][0]["server"] == servers[0].address


def test_a_reload_that_removes_and_adds_it_again_keeps_it(start, servers):
    wsgate = start()
    drain(wsgate, servers[0])
    text = wsgate.file.read_text()
    wsgate.reload(text.replace(f'"{servers[0].address}", ', ""))
    code, shown = gate.run(["status", *at(wsgate)])
    assert f"{servers[0].address} drained for" in shown and "not in the configuration" in shown, shown
    wsgate.reload(text)
    assert states(wsgate, servers) == ["drained", "up"]


@pytest.mark.parametrize("keeps_file", [False, True])
def test_a_hand_over_passes_it_on(start, servers, tmp_path, keeps_file):
    text = handover_config(start, servers, tmp_path)
    if keeps_file:
        text = f'state_file = "{tmp_path}/state.json"\n' + text
    old = start(text=text)
    new = gate.Gate.taking_over(old.file)
    start.running.append(new)
    # After the new process has read the file.
    drain(old, servers[0])
    old.process.send_signal(signal.SIGQUIT)
    new.wait_until_serving()
    assert old.process.wait(3 * TIMEOUT) == 0
    assert states(new, servers) == ["drained", "up"]
    assert request(new, "POST", RESUME)[1]["resumed"] == [servers[0].address]


@pytest.mark.parametrize("content", ["", "{}", '{"version": 7, "drained": []}', "[1", "\x00\xff"])
def test_a_state_that_cannot_be_read_keeps_it_from_starting(servers, tmp_path, content):
    state, file = tmp_path / "state.json", tmp_path / "wsgate.toml"
    state.write_bytes(content.encode("latin-1"))
    file.write_text(f'state_file = "{state}"\n' + gate.config([servers[0].address]))
    code, shown = gate.run(["run", "--config", str(file)])
    assert code == 1 and str(state) in shown and "remove it to start with all servers" in shown, shown
    assert state.read_bytes() == content.encode("latin-1"), "it is left as it was"


def test_a_state_that_cannot_be_written_is_found_at_the_start(servers, tmp_path):
    file = tmp_path / "wsgate.toml"
    file.write_text(f'state_file = "{tmp_path}/none/state.json"\n' + gate.config([servers[0].address]))
    code, shown = gate.run(["run", "--config", str(file)])
    assert code == 1 and "cannot be written" in shown and 'state_file = "off"' in shown, shown


def test_a_drain_that_cannot_be_kept_is_in_force_and_says_so(start, servers, tmp_path):
    directory = tmp_path / "state"
    directory.mkdir()
    wsgate = start(text=f'state_file = "{directory}/state.json"\n' + start.config(servers))
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    code, shown = gate.run(["drain", "main", "--server", servers[0].address, *at(wsgate)])
    assert code == 0 and "a restart of wsgate forgets it" in shown, shown
    assert states(wsgate, servers) == ["drained", "up"]


def test_the_last_server_needs_force(start, servers):
    wsgate = start(admin="ready_needs_servers = true")
    drain(wsgate, servers[0])
    assert wsgate.get("/readyz")[0] == 200
    code, shown = gate.run(["drain", "main", "--server", servers[1].address, "--dry-run", *at(wsgate)])
    assert code == 0 and "needs --force" in shown, shown
    code, shown = gate.run(["drain", "main", "--server", servers[1].address, *at(wsgate)])
    assert code == 1 and "no other server of upstream `main`" in shown and "--force" in shown, shown
    assert states(wsgate, servers) == ["drained", "up"]

    code, shown = gate.run(["drain", "main", "--server", servers[1].address, "--force", *at(wsgate)])
    assert code == 0 and "no server of `main` takes connections" in shown, shown
    wsgate.wait_for_log(lambda line: "no server of the upstream takes connections" in line, "of it")
    answer = wsgate.get("/readyz")
    assert answer[0] == 503 and "main" in answer[1], answer
    code, shown = gate.run(["status", *at(wsgate)])
    assert code == 1 and "NO SERVER TAKES CONNECTIONS" in shown, shown
    request(wsgate, "POST", RESUME)
    assert wsgate.get("/readyz")[0] == 200


@pytest.mark.parametrize("answer, drained", [(b"n\n", False), (b"\n", False), (b"y\n", True)])
def test_at_a_terminal_it_asks(start, servers, answer, drained):
    wsgate = start()
    drain(wsgate, servers[0])
    ours, theirs = pty.openpty()
    arguments = [gate.BINARY, "drain", "main", "--server", servers[1].address, *at(wsgate)]
    process = subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(ours, 4096)
    os.write(ours, answer)
    assert process.wait(TIMEOUT) == (0 if drained else 1)
    os.close(ours)
    assert states(wsgate, servers) == ["drained", "drained" if drained else "up"]


def test_a_forgotten_resume_shows(start, servers):
    wsgate = start(drain={"remind_after": "1s"})
    drain(wsgate, servers[0])
    line = wsgate.wait_for_log(lambda line: "still drained" in line, "that reminds of it")
    assert servers[0].address in line and "wsgate resume" in line, line
    metric = "wsgate_server_drained_seconds"
    wsgate.wait_for_metrics(lambda now: now.total(metric, server=servers[0].address) >= 1, "its age")
    assert wsgate.metrics().total(metric, server=servers[1].address) == 0
    request(wsgate, "POST", RESUME)
    assert wsgate.metrics().total(metric) == 0


def test_a_drain_can_be_cancelled_from_the_shell(start, servers, clients):
    wsgate = start(drain={"deadline": "60s"})
    for _ in range(4):
        clients.enter_context(connect(f"ws://{wsgate.url}"))
    command = ["drain", "main", "--server", servers[0].address, "--over", "50s", *at(wsgate)]
    process = gate.launch(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "closed" in process.stdout.readline(), "a line for a reader that is no terminal"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert "the drain goes on" in said and "wsgate drain main --cancel" in said, said
    assert states(wsgate, servers) == ["draining", "up"]
    code, shown = gate.run(["drain", "main", "--cancel", *at(wsgate)])
    assert code == 0 and f"{servers[0].address} takes new connections again" in shown, shown
    assert "1 drain cancelled" in shown, shown
    assert states(wsgate, servers) == ["up", "up"]


def test_the_status_fits_80_columns_and_ends_with_its_reader(start, servers):
    long = f"unix:/nonexistent/{'x' * 80}.sock"
    text = start.config(servers).replace(f'"{servers[0].address}"', f'"{servers[0].address}", "{long}"')
    wsgate = start(text=text)
    drain(wsgate, servers[0])
    code, shown = gate.run(["status", *at(wsgate)])
    assert code == 0 and max(map(len, shown.splitlines())) <= 80, shown
    assert "drained for" in shown and shown.startswith("wsgate "), shown
    assert f", on {wsgate.url}" in shown.splitlines()[0] and re.search(r"drain \d+ \(operator\).*, began \d+s? ago", shown), shown
    command = f"{gate.BINARY} status {' '.join(at(wsgate))} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert (done.stderr, done.stdout.splitlines()[-1]) == ("", "0"), done


def test_the_environment_names_the_listener_and_the_token(start, tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    wsgate = start(admin=f'token_file = "{token}"')
    monkeypatch.setenv("WSGATE_ADMIN", "{}:{}".format(*wsgate.admin))
    code, shown = gate.run(["status"])
    assert code == 1 and "--token-file or WSGATE_TOKEN_FILE" in shown, shown
    monkeypatch.setenv("WSGATE_TOKEN_FILE", str(token))
    code, shown = gate.run(["status"])
    assert code == 0 and "main: 0 connections" in shown, shown


def test_resume_and_reload_end_an_ejection(start, servers):
    """A server that refused five connections is left alone for a long time, and is mended meanwhile."""
    wsgate = start(upstream={"eject_pause": "10m"})
    for how in ("resume", "reload"):
        servers[0].stop()
        deadline = time.monotonic() + TIMEOUT
        while status(wsgate)[servers[0].address]["state"] != "down":
            assert time.monotonic() < deadline, "it is not ejected"
            with connect(f"ws://{wsgate.url}"):
                pass
        out = status(wsgate)[servers[0].address]["out"]
        assert out["reason"].startswith("ejected: ") and out["until_seconds"] > 60, out
        servers[0].start()
        seen = len(wsgate.log)
        code, shown = gate.run([how, *(["main"] if how == "resume" else []), *at(wsgate)])
        assert code == 0, shown
        assert states(wsgate, servers) == ["up", "up"]
        wsgate.wait_for_log(lambda line: "not left alone any more" in line, "that it is back", seen)
