"""Drains under a crowd of clients that reconnect as told: whatever restarts, each gets a 1012 and nothing is lost."""

import signal
import subprocess
import threading
import time

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rig import frames, gate, http
from rig.crowd import Crowd, peak
from rig.operator import request, status, wait_until_drained
from rig.raw import TIMEOUT

def test_a_drained_server_is_left_for_the_other(start, servers):
    wsgate, (first, second) = start(), servers
    with Crowd(f"ws://{wsgate.url}") as crowd:
        before = status(wsgate)
        path = "/v1/upstreams/main/drain"
        code, body = request(wsgate, "POST", path, {"server": first.address, "over": "2s"})
        assert (code, body["begun"][0]["total"]) == (202, before[first.address]["connections"])
        drained = wait_until_drained(wsgate)
        assert drained["state"] == "done", drained
        crowd.wait_until_all_are_back()
        assert crowd.closes == {1012: before[first.address]["connections"]}, "nobody of the other server is touched"
        assert crowd.peak() < len(crowd.told) / 2, f"{crowd.peak()} of {len(crowd.told)} within a quarter of a second"
        after = status(wsgate)
        assert (after[first.address]["connections"], after[first.address]["state"]) == (0, "drained")
        assert after[second.address]["connections"] == crowd.size
        assert request(wsgate, "POST", path, {"server": first.address})[0] == 200, "it is drained already"
        assert request(wsgate, "POST", "/v1/upstreams/main/resume")[0] == 200
        assert status(wsgate)[first.address]["state"] == "up"
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_a_deploy_closes_everybody_once(start, servers):
    """The adaptive pace, with a server that takes whatever comes."""
    wsgate = start()
    with Crowd(f"ws://{wsgate.url}") as crowd:
        assert request(wsgate, "POST", "/v1/upstreams/main/deploy")[0] == 202
        drained = wait_until_drained(wsgate)
        crowd.wait_until_all_are_back()
        assert crowd.closes == {1012: crowd.size}, crowd.closes
        assert (drained["total"], drained["closed"]) == (crowd.size, crowd.size), drained
        assert {server["state"] for server in status(wsgate).values()} == {"up"}
        metrics = wsgate.metrics()
        assert metrics.total("wsgate_drain_connections_total", cause="deploy") == crowd.size
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_a_rolling_deploy_loses_nothing(start, servers):
    """Drain, restart, resume, next: what a deploy script does."""
    wsgate = start()
    with Crowd(f"ws://{wsgate.url}") as crowd:
        for server in servers:
            assert request(wsgate, "POST", "/v1/upstreams/main/drain", {"server": server.address})[0] == 202
            assert wait_until_drained(wsgate)["state"] == "done"
            server.stop()
            server.start()
            assert request(wsgate, "POST", "/v1/upstreams/main/resume", {"server": server.address})[0] == 200
        crowd.wait_until_all_are_back()
        assert set(crowd.closes) == {1012}, crowd.closes
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_the_shell_does_the_same(start, servers):
    wsgate, (first, _) = start(), servers
    at = ["--admin", "{}:{}".format(*wsgate.admin)]
    with Crowd(f"ws://{wsgate.url}", size=20) as crowd:
        code, shown = gate.run(["drain", "main", "--server", first.address, "--over", "500ms", "--dry-run", *at])
        assert (code, crowd.closes) == (0, {}), shown
        mine = status(wsgate)[first.address]["connections"]
        code, shown = gate.run(["drain", "main", "--server", first.address, "--over", "500ms", *at])
        assert code == 0 and f"done: {mine} of {mine} closed" in shown, shown
        crowd.wait_until_all_are_back()
        code, shown = gate.run(["status", *at])
        assert code == 0 and "drained" in shown and "20 connections" in shown, shown
        assert gate.run(["resume", "main", *at])[0] == 0
        code, shown = gate.run(["drain", "mian", *at])
        assert code == 1 and "there is no upstream `mian`" in shown and "main" in shown, shown


def test_kill_9_of_a_server_looks_like_a_restart(start, servers):
    wsgate, (first, second) = start(), servers
    with Crowd(f"ws://{wsgate.url}") as crowd:
        victims = status(wsgate)[first.address]["connections"]
        first.kill()
        crowd.wait_for(lambda: len(crowd.told) == victims, f"{victims} clients to be told")
        crowd.wait_until_all_are_back()
        assert crowd.closes == {1012: victims}, crowd.closes
        back = peak(crowd.back, 0.25)
        assert back < victims * 0.9, f"{back} of {victims} came back within a quarter of a second"
        assert status(wsgate)[second.address]["connections"] == crowd.size


def test_a_server_that_says_it_restarts_is_believed(start_rig):
    """Three of its connections closed with 1001 within a second: its other clients are told as well."""
    rig = start_rig(extra={"drain": {"pace": "1000/s"}})
    sessions = [rig.open() for _ in range(6)]
    for session in sessions[:3]:
        session.server.send_close(1001, "bye")
        assert session.client.read_close()[0] == 1012
        session.client.send_close(1012)
    for session in sessions[3:]:
        assert session.client.read_close()[0] == 1012, "it is told ahead of the server's death"
        session.client.send_close(1012)
        assert session.server.read_close()[0] == 1001
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_drain_connections_total", cause="upstream") == 6, "all to be counted")


@pytest.mark.parametrize("verb", ["drain", "deploy"])
def test_an_upgrade_under_way_is_drained_too(start_rig, verb):
    """Sent to the server before the drain, answered after its beginning: it is as old as those connected."""
    rig = start_rig(route={"close_timeout": "1s"})
    client, path = rig.request()
    upstream, head = rig.server.accept_request(path)
    code, body = request(rig.gate, "POST", f"/v1/upstreams/main/{verb}", {"over": "200ms", "force": True})
    assert (code, body["begun"][0]["total"]) == (202, 1)
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    assert client.read_close()[0] == 1012


def test_resuming_one_of_all_leaves_the_others_draining(start, servers):
    wsgate, (first, _) = start(drain={"deadline": "60s"}), servers
    with Crowd(f"ws://{wsgate.url}", size=20) as crowd:
        assert request(wsgate, "POST", "/v1/upstreams/main/drain", {"over": "2s", "force": True})[0] == 202
        code, body = request(wsgate, "POST", "/v1/upstreams/main/resume", {"server": first.address})
        assert (code, body["cancelled"]) == (200, 0)
        assert wait_until_drained(wsgate)["state"] == "done"
        crowd.wait_until_all_are_back()
        assert status(wsgate)[first.address]["connections"] == crowd.size


def test_sigterm_tells_everybody_and_ends(start, servers):
    wsgate = start()
    with Crowd(f"ws://{wsgate.url}") as crowd:
        crowd.reconnects = False
        wsgate.process.send_signal(signal.SIGTERM)
        # 200 a second.
        assert wsgate.process.wait(TIMEOUT + crowd.size / 200) == 0
        crowd.wait_for(lambda: crowd.open == 0, "everybody to be told")
        assert crowd.closes == {1012: crowd.size}, crowd.closes
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_sigterm_does_not_wait_for_who_never_answers(start_rig):
    rig = start_rig(extra={"drain": {"shutdown_deadline": "1s"}})
    silent = [rig.open() for _ in range(5)]
    began = time.monotonic()
    rig.gate.process.send_signal(signal.SIGTERM)
    assert rig.gate.process.wait(TIMEOUT) == 0
    assert time.monotonic() - began < 4, "its deadline is one second"
    for session in silent:
        assert session.client.read_close()[0] == 1012


def test_sigterm_waits_for_no_grace_beyond_its_deadline(start_rig):
    """Between two fragments there is a frame boundary, and a Close there is better than none."""
    rig = start_rig(extra={"drain": {"shutdown_deadline": "2s"}}, route={"message_grace": "30s"})
    session = rig.open()
    session.server.send_frame(frames.TEXT, b"half of ", fin=False)
    session.client.read_frame()
    rig.gate.process.send_signal(signal.SIGTERM)
    assert session.client.read_close()[0] == 1012
    session.client.send_close(1012)
    assert rig.gate.process.wait(TIMEOUT) == 0


def test_sigterm_during_a_drain(start, servers):
    """Nobody is told twice, nobody is forgotten."""
    wsgate = start(drain={"deadline": "60s"})
    with Crowd(f"ws://{wsgate.url}", size=60) as crowd:
        crowd.reconnects = False
        assert request(wsgate, "POST", "/v1/upstreams/main/deploy", {"over": "30s"})[0] == 202
        crowd.wait_for(lambda: crowd.told, "the first one to be told")
        wsgate.process.send_signal(signal.SIGTERM)
        assert wsgate.process.wait(2 * TIMEOUT) == 0
        crowd.wait_for(lambda: crowd.open == 0, "everybody to be told")
        assert crowd.closes == {1012: crowd.size}, crowd.closes
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_a_maximal_age_is_a_drain_that_never_ends(start, servers):
    wsgate = start(route={"max_age": "2s"}, upstream={"upgrade_rate": 20})
    with Crowd(f"ws://{wsgate.url}", size=50) as crowd:
        crowd.wait_for(lambda: len(crowd.told) >= 2 * crowd.size, "everybody to be told twice")
        assert set(crowd.closes) == {1012} and crowd.refused == {}
        assert crowd.peak() < crowd.size / 2, f"{crowd.peak()} of {crowd.size} within a quarter of a second"
        metrics = wsgate.metrics()
        assert metrics.total("wsgate_drain_connections_total", cause="max_age") >= 2 * crowd.size
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_figures_of_a_drain_that_runs(start, servers):
    wsgate = start(upstream={"upgrade_rate": 50}, drain={"deadline": "60s"}, route={"reconnect_after": "5s-5s"})
    assert wsgate.metrics().total("wsgate_server_known_rate", server=servers[0].address) == 50
    with Crowd(f"ws://{wsgate.url}", size=20):
        request(wsgate, "POST", "/v1/upstreams/main/deploy", {"rate": 10})
        wsgate.wait_for_metrics(lambda now: now.total("wsgate_drain_rate") > 0, "the pace")
        wsgate.wait_for_metrics(lambda now: now.total("wsgate_clients_away", upstream="main") > 0, "clients that are away")
        wait_until_drained(wsgate)
    assert wsgate.metrics().total("wsgate_drain_rate") == 0


def test_what_metrics_and_log_say_of_a_deploy(start, servers):
    wsgate = start()
    with Crowd(f"ws://{wsgate.url}", size=60) as crowd:
        assert request(wsgate, "POST", "/v1/upstreams/main/deploy")[0] == 202
        wait_until_drained(wsgate)
        crowd.wait_until_all_are_back()
        now = wsgate.metrics()
        assert now.total("wsgate_drains_total", cause="deploy") == 1
        assert now.total("wsgate_drains_raised_total", cause="deploy") == 0
        assert now.total("wsgate_reconnect_seconds_count", upstream="main") >= crowd.size * 0.9
        mean = now.total("wsgate_reconnect_seconds_sum") / now.total("wsgate_reconnect_seconds_count")
        assert 0.05 < mean < 1, "clients were told to come back after 50 to 400 ms"
        assert now.total("wsgate_drains_open") == now.total("wsgate_drains_waiting") == 0
        states = {server.address: now.total("wsgate_server_state", server=server.address, state="up") for server in servers}
        assert set(states.values()) == {1}
        end = wsgate.wait_for_log(lambda line: "drain ends" in line, "of the end")
        assert f"connections={crowd.size}" in end and 'cause="deploy"' in end and 'selection="main"' in end, end
        # A pace that cannot hold its deadline is raised, and that is said before it begins.
        body = {"rate": 1, "deadline": "2s"}
        code, answer = request(wsgate, "POST", "/v1/upstreams/main/deploy", body | {"dry_run": True})
        assert (code, answer["forecast"]["raised"]) == (200, True)
        code, answer = request(wsgate, "POST", "/v1/upstreams/main/deploy", body)
        assert (code, answer["begun"][0]["raised"]) == (202, True)
        wsgate.wait_for_log(lambda line: "it is raised" in line, "of the pace")
        assert wsgate.metrics().total("wsgate_drains_raised_total", cause="deploy") == 1


def test_what_is_cancelled_stays(start, servers):
    wsgate = start(drain={"deadline": "60s"})
    with Crowd(f"ws://{wsgate.url}", size=40) as crowd:
        assert request(wsgate, "POST", "/v1/upstreams/main/drain", {"over": "30s", "force": True})[0] == 202
        crowd.wait_for(lambda: crowd.told, "the first one to be told")
        code, body = request(wsgate, "DELETE", "/v1/upstreams/main/drain")
        assert (code, body["cancelled"]) == (200, 1)
        crowd.wait_until_all_are_back()
        assert len(crowd.told) < crowd.size / 2
        sent = len(crowd.sent)
        crowd.wait_for(lambda: len(crowd.sent) > sent + crowd.size, "the rest to go on talking")
        assert wsgate.metrics().total("wsgate_drains_open") == 0


def test_where_all_are_drained_an_upgrade_is_held(start, servers):
    wsgate = start(upstream={"queue_timeout": "300ms"})
    assert request(wsgate, "POST", "/v1/upstreams/main/drain", {"force": True})[0] in (200, 202)
    began = time.monotonic()
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{wsgate.url}")
    response = refused.value.response
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert time.monotonic() - began >= 0.3


def test_how_a_hold_ended_is_counted(start, servers):
    wsgate = start(upstream={"queue_timeout": "200ms"})
    assert request(wsgate, "POST", "/v1/upstreams/main/drain", {"force": True})[0] in (200, 202)
    with pytest.raises(InvalidStatus):
        connect(f"ws://{wsgate.url}")
    wsgate.wait_for_metrics(lambda now: now.total("wsgate_upgrades_dequeued_total", upstream="main", end="expired") == 1, "the hold")


def test_a_held_upgrade_is_served_when_a_server_is_back(start, servers):
    wsgate = start(upstream={"queue_timeout": "20s"})
    assert request(wsgate, "POST", "/v1/upstreams/main/drain", {"force": True})[0] in (200, 202)
    crowd = Crowd(f"ws://{wsgate.url}", size=5)
    resumed = []

    def resume_once_they_wait():
        wsgate.wait_for_metrics(lambda now: now.total("wsgate_upgrades_queued") == crowd.size, "all to be queued")
        resumed.append(request(wsgate, "POST", "/v1/upstreams/main/resume")[0])

    thread = threading.Thread(target=resume_once_they_wait)
    thread.start()
    with crowd:
        thread.join(TIMEOUT)
    assert (resumed, crowd.refused) == ([200], {})
    assert wsgate.metrics().total("wsgate_upgrades_queued") == 0


def test_requests_that_are_refused(start, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    wsgate = start(admin=f'token_file = "{token}"')
    path = "/v1/upstreams/main/drain"
    for offered in (None, "guess", "s3cre", "s3crett"):
        assert request(wsgate, "POST", path, token=offered)[0] == 401
    code, body = request(wsgate, "POST", "/v1/upstreams/mian/drain", token="s3cret")
    assert (code, body["upstreams"]) == (404, ["main"])
    code, body = request(wsgate, "POST", path, b'{"over": ', token="s3cret")
    assert code == 400 and "line 1 column" in body["error"], body
    code, body = request(wsgate, "POST", path, {"dry_run": True}, token="s3cret")
    assert (code, body["forecast"]["connections"]) == (200, 0)
    assert {server["state"] for server in status(wsgate, "s3cret").values()} == {"up"}, "nothing has changed"


def test_the_last_line_says_for_how_long_clients_were_told_to_wait(start_rig):
    rig = start_rig(route={"reconnect_after": "2s-7s"})
    sessions = [rig.open() for _ in range(3)]
    command = ["drain", "main", "--force", "--admin", "{}:{}".format(*rig.gate.admin)]
    draining = gate.launch(command, stdout=subprocess.PIPE, text=True)
    for session in sessions:
        code, _ = session.client.read_close()
        session.client.send_frame(frames.CLOSE, code.to_bytes(2, "big"))
        code, _ = session.server.read_close()
        session.server.send_frame(frames.CLOSE, code.to_bytes(2, "big"))
    output, _ = draining.communicate(timeout=TIMEOUT)
    last = output.splitlines()[-1]
    assert draining.returncode == 0
    assert last == "done: 3 of 3 closed, 0 back, 3 still to come, told to wait up to 7 s", output
