"""The program as an operator meets it: what stops it from starting, `check`, and starting without a file."""

import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from rig import gate, http, raw
from rig.frames import TEXT
from rig.gate import config
from rig.raw import TIMEOUT

GOOD = gate.config(["127.0.0.1:9"])

# What is wrong, the configuration, and a word that the complaint must have besides the file and the line.
BROKEN = {
    "no TOML": ("[admin\n", "1"),
    "unknown key": (GOOD + "\nmax_frame_sice = 3\n", "max_frame_sice"),
    "unknown table": (GOOD + "\n[lissener]\n", "lissener"),
    "wrong type": (gate.config(["127.0.0.1:9"], route={"max_connections": "many"}), "max_connections"),
    "no duration": (gate.config(["127.0.0.1:9"], route={"close_timeout": "soon"}), "soon"),
    "no size": (gate.config(["127.0.0.1:9"], route={"text_buffer": "much"}), "much"),
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


ROUTES = """
[upstream.chat]
servers = ["10.0.0.5:9000", "chat-2.internal:9000"]
[upstream.games]
servers = ["unix:/run/games.sock"]
[[route]]
name = "chat"
hosts = ["chat.example.com"]
path = "/ws"
upstream = "chat"
[[route]]
name = "games"
hosts = ["*.example.com"]
upstream = "games"
"""


@pytest.mark.parametrize("url, status, expected", [
    ("https://chat.example.com/ws/room?id=1", 0, "route `chat`, upstream `chat`: 10.0.0.5:9000, chat-2.internal:9000"),
    ("ws://CHAT.example.com:8080/ws", 0, "route `chat`, upstream `chat`: "),
    ("https://chess.example.com/", 0, "route `games`, upstream `games`: unix:/run/games.sock"),
    ("https://chat.example.com/wsx", 0, "route `games`"),
    ("https://example.org/ws", 1, "404, no route for this host and path"),
    ("https://chat.example.com/%77s/../admin", 1, "400, the path of the request can be read in two ways"),
    ("chat.example.com/ws", 2, "write it with scheme and host"),
])
def test_check_says_which_route_a_url_takes(tmp_path, url, status, expected):
    file = tmp_path / "wsgate.toml"
    file.write_text('[[listener]]\nlisten = "127.0.0.1:0"\n' + ROUTES)
    found, output = gate.run(["check", "--config", str(file), "--route", url])
    assert (found, expected in output) == (status, True), output


def test_check_shows_all_mistakes_of_all_included_files(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "wsgate.toml").write_text('include = ["conf.d/*.toml"]\n[[listener]]\nlisten = "127.0.0.1"\n')
    (tmp_path / "conf.d" / "routes.toml").write_text(ROUTES.replace("hosts = [", "host = [", 1).replace('"games"\n', '"game"\n'))
    status, output = gate.run(["check", "--config", str(tmp_path / "wsgate.toml")])
    assert status == 1, output
    for part in [
        f"`127.0.0.1` has no port\n --> {tmp_path}/wsgate.toml:3:10\n",
        f"unknown key `host`\n --> {tmp_path}/conf.d/routes.toml:8:1\n",
        f"there is no upstream `game`\n  --> {tmp_path}/conf.d/routes.toml:14:12\n",
    ]:
        assert part in output, f"{part!r} is not in:\n{output}"


def test_check_reads_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "wsgate.toml"
    file.write_text(GOOD.replace('listen = "127.0.0.1:0"', 'listen = "127.0.0.1:${WSGATE_TEST_PORT}"'))
    status, output = gate.run(["check", "--config", str(file)])
    assert status == 1 and "the environment variable `WSGATE_TEST_PORT` is not set" in output, output
    monkeypatch.setenv("WSGATE_TEST_PORT", "0")
    status, output = gate.run(["check", "--config", str(file)])
    assert status == 0, output


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


def test_the_page_of_the_demo_in_a_browser(tmp_path):
    """On a phone: Enter sends, the server is named, and a drain moves the page without losing what is said meanwhile."""
    demo = gate.launch(["demo"], stdout=subprocess.PIPE, text=True)
    try:
        url = next(line.split()[1] for line in demo.stdout if line.startswith("  page"))
        # The tour is over: its backends do what the page says.
        assert any("as announced." in line for line in demo.stdout)
        script = pathlib.Path(__file__).parent / "node/demo_page.mjs"
        page = subprocess.run(
            ["node", script, url, str(tmp_path / "profile")], capture_output=True, text=True, timeout=60, check=False
        )
        assert page.returncode == 0, page.stderr
        seen = json.loads(page.stdout)
        assert seen["first"] != seen["second"] and seen["left"] == "" and seen["width"] <= 360, seen
    finally:
        demo.terminate()
        demo.wait(TIMEOUT)


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


def test_a_reload_with_a_key_that_only_root_reads(tmp_path):
    """A reload of something else does not fail because of it; a new key has to be readable, and the one before stays."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        pair = {"cert": f"{directory}/a.pem", "key": f"{directory}/a.key"}
        tls = pathlib.Path(__file__).resolve().parents[1] / "tls"

        def install(name):
            for kind in ("pem", "key"):
                shutil.copy(tls / f"{name}.{kind}", new := pathlib.Path(directory) / "new")
                os.chmod(new, 0o600 if kind == "key" else 0o644)
                os.rename(new, f"{directory}/a.{kind}")

        install("a")
        user = 'user = "nobody"\n' if os.geteuid() == 0 else ""
        text = user + config(["127.0.0.1:9"], listener={"certificates": [pair]})
        with gate.Gate(directory, text) as wsgate:
            wsgate.file.chmod(0o644)
            wsgate.reload(text.replace('name = "main"', 'name = "other"'))
            assert any(sample.labels.get("route") == "other" for sample in wsgate.metrics().samples)
            if user:
                install("b")
                seen = len(wsgate.log)
                wsgate.process.send_signal(signal.SIGHUP)
                line = wsgate.wait_for_log(lambda line: "not reloaded" in line, "of the key", seen)
                assert f"`{directory}/a.key` cannot be read" in line, line


def test_the_user_of_the_process(tmp_path):
    """Root's process becomes that user's once its listeners are bound; anybody else's says that it may not."""
    text = 'user = "nobody"\n' + config(["127.0.0.1:9"])
    if os.geteuid() != 0:
        file = tmp_path / "wsgate.toml"
        file.write_text(text)
        status, shown = gate.run(["run", "--config", str(file)])
        assert status == 1 and "cannot run as `nobody`" in shown and "start it as root" in shown, shown
        return
    nobody = pwd.getpwnam("nobody")
    with gate.Gate(tmp_path, text) as wsgate:
        lines = pathlib.Path(f"/proc/{wsgate.process.pid}/status").read_text().splitlines()
        ids = {line.split(":")[0]: line.split()[1:] for line in lines if line.startswith(("Uid:", "Gid:", "CapEff:"))}
        assert set(ids["Uid"]) == {str(nobody.pw_uid)} and set(ids["Gid"]) == {str(nobody.pw_gid)}
        assert int(ids["CapEff"][0], 16) == 0
        for thread in pathlib.Path(f"/proc/{wsgate.process.pid}/task").iterdir():
            assert f"Uid:\t{nobody.pw_uid}\t" in (thread / "status").read_text(), "each of its threads"


def test_what_a_service_manager_is_told(tmp_path, monkeypatch):
    """systemd's protocol: a datagram for each change."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        text = config(["127.0.0.1:9"])
        with gate.Gate(tmp_path, text) as wsgate:
            assert manager.recv(1000).decode().split() == ["READY=1"]
            wsgate.reload(text)
            reloading = manager.recv(1000).decode().split()
            assert reloading[0] == "RELOADING=1" and reloading[1].startswith("MONOTONIC_USEC=")
            assert manager.recv(1000).decode().split() == ["READY=1"]
        assert manager.recv(1000).decode().split() == ["STOPPING=1"]


def test_the_systemd_unit():
    """Of what it names, only the binary is not where it will be."""
    unit = pathlib.Path(__file__).resolve().parents[2] / "conf/wsgate.service"
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=TIMEOUT)
    complaints = [line for line in checked.stderr.splitlines() if "wsgate" in line and "is not executable" not in line]
    assert not complaints, complaints
