"""The program as an operator meets it: what stops it from starting, `check`, and starting without a file."""

import signal
import socket

import pytest

from rig import gate, http, raw
from rig.frames import TEXT

GOOD = gate.config(["127.0.0.1:9"])

# What is wrong, the configuration, and a word that the complaint must have besides the file and the line.
BROKEN = {
    "no TOML": ("[admin\n", "1"),
    "unknown key": (GOOD + "\nmax_frame_sice = 3\n", "max_frame_sice"),
    "unknown table": (GOOD + "\n[lissener]\n", "lissener"),
    "wrong type": (gate.config(["127.0.0.1:9"], route={"max_connections": "many"}), "max_connections"),
    "no duration": (gate.config(["127.0.0.1:9"], route={"close_timeout": "soon"}), "soon"),
    "no size": (gate.config(["127.0.0.1:9"], route={"hold": "much"}), "much"),
    "no address": (gate.config(["127.0.0.1:9"], listen=["nowhere"]), "nowhere"),
    "unknown upstream": (gate.config(["127.0.0.1:9"], route={"upstream": "missing"}), "missing"),
    "two listeners on one address": (gate.config(["127.0.0.1:9"], listen=["127.0.0.1:7001"] * 2), "7001"),
    "no servers": (gate.config([]), "servers"),
    "unknown mode": (gate.config(["127.0.0.1:9"], route={"mode": "lax"}), "lax"),
    "code that may not be sent": (gate.config(["127.0.0.1:9"], route={"restart_code": 1006}), "1006"),
}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("text", "word"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_configuration(tmp_path, command, text, word):
    """Exit status 1, and where it is: file, line, column, a caret."""
    file = tmp_path / "broken.toml"
    file.write_text(text)
    status, output = gate.run([command, "--config", str(file)])
    assert status == 1, f"status {status}: {output}"
    for part in (f"{file}:", "^", word):
        assert part in output, f"{part!r} is not in:\n{output}"
    assert "panicked" not in output, output


@pytest.mark.parametrize("command", ["run", "check"])
def test_missing_file(tmp_path, command):
    status, output = gate.run([command, "--config", str(tmp_path / "missing.toml")])
    assert status == 1, f"status {status}: {output}"
    assert "missing.toml" in output


def test_check_of_a_good_configuration(tmp_path):
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    status, output = gate.run(["check", "--config", str(file)])
    assert status == 0, f"status {status}: {output}"


@pytest.mark.parametrize("which", ["listener", "admin"])
def test_port_in_use(tmp_path, which):
    """One clear line that names the address, and exit status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        text = GOOD if which == "admin" else gate.config(["127.0.0.1:9"], listen=[address])
        if which == "admin":
            text = text.replace('listen = "127.0.0.1:0"', f'listen = "{address}"', 1)
        file = tmp_path / "wsgate.toml"
        file.write_text(text)
        status, output = gate.run(["run", "--config", str(file)])
    assert status == 1, f"status {status}: {output}"
    complaints = [line for line in output.splitlines() if address in line]
    assert len(complaints) == 1, f"expected one line that names {address}:\n{output}"
    assert "in use" in complaints[0], complaints[0]
    assert "panicked" not in output, output


def test_run_without_a_file():
    """A listener, servers and an admin address are enough."""
    server = raw.Server()
    arguments = ["--listen", "127.0.0.1:0", "--upstream", server.address, "--admin", "127.0.0.1:0"]
    with gate.Gate.without_file(arguments) as running:
        client = raw.connect(running.address)
        client.send(http.upgrade_request("/without-a-file"))
        upstream, head = server.accept_request("/without-a-file")
        upstream.send(http.switching_protocols(head))
        assert client.read_head().status == 101
        client.send_frame(TEXT, b"\xff")
        assert client.read_close()[0] == 1007
        assert upstream.read_close()[0] == 1001
        raw.drop_all()


def test_demo():
    """The tour finds everything as it announces it."""
    status, output = gate.run(["demo", "--once"])
    assert status == 0, f"status {status}: {output}"
    assert "1007" in output, output


def test_no_arguments_at_all():
    status, output = gate.run([])
    assert status == 2, f"status {status}: {output}"
    assert "Usage" in output


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_ends_on_signals(start_rig, name):
    """With status 0, also while connections are open (asserted by the fixture for TERM)."""
    rig = start_rig()
    session = rig.open()
    rig.gate.process.send_signal(signal.Signals[f"SIG{name}"])
    assert rig.gate.process.wait(30) == 0
    session.drop()


def test_ends_on_a_signal_right_after_it_says_that_it_listens(tmp_path):
    """Whoever starts it may stop it as soon as it has said that it is there; several times, as it is about a race."""
    for _ in range(10):
        with gate.Gate(tmp_path, GOOD):
            pass
