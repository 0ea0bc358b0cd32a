"""A new wsgate takes the listeners of the old one: no attempt to connect fails, and everybody is told to come over."""

import os
import pathlib
import select
import signal
import socket
import threading

from websockets.sync.client import connect

from rig import gate
from rig.crowd import Crowd
from rig.raw import TIMEOUT


def config(start, servers, tmp_path, socket_line=True):
    """With a port that does not change from one process to the next."""
    with socket.create_server(("127.0.0.1", 0)) as probe, socket.create_server(("127.0.0.1", 0)) as admin:
        ports = probe.getsockname()[1], admin.getsockname()[1]
    text = start.config(servers, listen=(f"127.0.0.1:{ports[0]}",))
    text = text.replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{ports[1]}"')
    return (f'upgrade_socket = "{tmp_path}/upgrade"\n' if socket_line else "") + text


def test_no_attempt_fails_and_everybody_comes_over(start, servers, tmp_path):
    old = start(text=config(start, servers, tmp_path))
    with Crowd(f"ws://{old.url}") as crowd:
        failures, attempts, over = [], [], threading.Event()

        def knock():
            while not over.is_set():
                try:
                    with connect(f"ws://{old.url}", open_timeout=TIMEOUT, compression=None):
                        attempts.append(1)
                except Exception as error:  # Whatever it is, it is what must not happen.
                    failures.append(error)

        knocking = [threading.Thread(target=knock) for _ in range(4)]
        for thread in knocking:
            thread.start()
        new = gate.Gate.taking_over(old.file)
        start.running.append(new)
        old.process.send_signal(signal.SIGQUIT)
        new.wait_until_serving()
        assert old.process.wait(3 * TIMEOUT) == 0
        crowd.wait_until_all_are_back()
        over.set()
        for thread in knocking:
            thread.join(TIMEOUT)
        assert (failures, crowd.refused) == ([], {}), failures[:3]
        assert len(attempts) > 20
        assert crowd.closes == {1012: crowd.size}, crowd.closes
        new.wait_for_metrics(lambda now: now.total("wsgate_connections_open") == crowd.size, "all to be with the new one")
    new.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_without_a_new_process_the_old_one_goes_on(start, servers, tmp_path):
    wsgate = start(text=config(start, servers, tmp_path))
    with Crowd(f"ws://{wsgate.url}", size=10) as crowd:
        wsgate.process.send_signal(signal.SIGQUIT)
        line = wsgate.wait_for_log(lambda line: "not handed over" in line, "of the failure")
        assert "run --upgrade" in line and "going on as before" in line, line
        with connect(f"ws://{wsgate.url}"):
            pass
        assert (crowd.closes, crowd.open) == ({}, crowd.size)


def test_without_a_socket_there_is_no_hand_over(start, servers, tmp_path):
    wsgate = start(text=config(start, servers, tmp_path, socket_line=False))
    with Crowd(f"ws://{wsgate.url}", size=10) as crowd:
        wsgate.process.send_signal(signal.SIGQUIT)
        wsgate.wait_for_log(lambda line: "needs `upgrade_socket`" in line, "of what is missing")
        code, shown = gate.run(["run", "--config", str(wsgate.file), "--upgrade"])
        assert code == 1 and "needs `upgrade_socket`" in shown, shown
        assert crowd.closes == {}


def end(pid):
    """Ends a process that is no child of this one, and waits until it is gone."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        assert select.select([process], [], [], 3 * TIMEOUT)[0], f"process {pid} goes on"
    finally:
        os.close(process)


def test_sigusr2_starts_the_binary_anew_below_a_service_manager(start, servers, tmp_path, monkeypatch):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        old = start(text=config(start, servers, tmp_path))
        assert manager.recv(1000).decode().split() == ["READY=1"]
        with Crowd(f"ws://{old.url}", size=20) as crowd:
            old.process.send_signal(signal.SIGUSR2)
            # The new process is ready, and the old one names it.
            told = [manager.recv(1000).decode().strip() for _ in range(2)]
            [new] = [int(line.removeprefix("MAINPID=")) for line in told if line.startswith("MAINPID=")]
            assert new != old.process.pid and "READY=1" in told, told
            assert old.process.wait(3 * TIMEOUT) == 0
            crowd.wait_until_all_are_back()
            assert (crowd.closes, crowd.refused) == ({1012: crowd.size}, {})
            command = pathlib.Path(f"/proc/{new}/cmdline").read_bytes().split(b"\0")
            assert b"--upgrade" in command and str(old.file).encode() in command
        end(new)


def test_a_binary_that_does_not_start_leaves_the_old_one(start, servers, tmp_path):
    wsgate = start(text=config(start, servers, tmp_path))
    wsgate.file.write_text("[admin\n")
    with Crowd(f"ws://{wsgate.url}", size=10) as crowd:
        wsgate.process.send_signal(signal.SIGUSR2)
        wsgate.wait_for_log(lambda line: "were not handed over; going on as before" in line, "of the failure")
        assert crowd.closes == {} and wsgate.get("/readyz")[0] == 200
