"""A new configuration under a crowd: what it leaves behind is drained, and nothing else is touched."""

import signal

import pytest
from websockets.sync.client import connect

from rig import gate
from rig.crowd import Counting, Crowd
from rig.operator import request, status, wait_until_drained
from rig.raw import TIMEOUT


def test_a_server_that_left_is_drained_and_one_that_came_is_used(start, servers):
    first, second = servers
    wsgate = start(text=start.config([first]))
    with Crowd(f"ws://{wsgate.url}") as crowd:
        wsgate.reload(start.config([second]))
        drained = wait_until_drained(wsgate)
        assert (drained["cause"], drained["total"]) == ("reload", crowd.size)
        crowd.wait_until_all_are_back()
        assert crowd.closes == {1012: crowd.size}, crowd.closes
        assert crowd.refused == {}
        assert status(wsgate)[second.address]["connections"] == crowd.size
        wsgate.wait_for_log(lambda line: "drain ends" in line and "cause=\"reload\"" in line, "of the end of the drain")
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_another_generation_drains_the_older_ones(start, servers):
    wsgate = start(upstream={"generation": "v41"})
    with Crowd(f"ws://{wsgate.url}") as crowd:
        wsgate.reload(start.config(servers, upstream={"generation": "v41"}, drain={"deadline": "7s"}))
        assert request(wsgate, "GET", "/v1/upstreams/main/drain")[1]["drains"] == [], "it is the same"
        wsgate.reload(start.config(servers, upstream={"generation": "v42"}))
        drained = wait_until_drained(wsgate)
        crowd.wait_until_all_are_back()
        assert crowd.closes == {1012: crowd.size}, crowd.closes
        assert (drained["total"], drained["state"]) == (crowd.size, "done")
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_in_a_blue_green_change_the_old_ones_stay_until_the_new_ones_pass(start, servers):
    """Green is not up yet when the configuration names it: blue goes on, for those connected and for new ones."""
    blue, green = servers
    green.stop()
    check = {"check": "websocket", "healthy": 1}
    wsgate = start(text=start.config([blue], health=check))
    with Crowd(f"ws://{wsgate.url}", size=40) as crowd:
        wsgate.reload(start.config([green], health=check))
        seen = len(crowd.sent)
        crowd.wait_for(lambda: len(crowd.sent) > seen + 5 * crowd.size, "everybody to go on talking")
        assert status(wsgate)[green.address]["state"] == "down"
        with connect(f"ws://{wsgate.url}") as newcomer:
            newcomer.send("newcomer 0")
            assert status(wsgate)[blue.address]["connections"] == crowd.size + 1
        assert crowd.closes == {}
        green.start()
        crowd.wait_for(lambda: len(crowd.back) == crowd.size, "everybody to come to green")
        assert (crowd.closes, crowd.refused) == ({1012: crowd.size}, {})
        assert status(wsgate)[green.address]["connections"] == crowd.size
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_what_stays_as_it_was_is_not_touched(start, servers):
    """Ten reloads that change everything else, under load."""
    wsgate = start()
    with Crowd(f"ws://{wsgate.url}") as crowd:
        for turn in range(10):
            extra = {
                "drain": {"deadline": f"{turn + 5}s", "pace": "adaptive" if turn % 2 else "50/s"},
                "log": {"level": "debug" if turn % 2 else "info"},
                f"upstream.other{turn}": {"servers": ["127.0.0.1:9"], "generation": f"v{turn}"},
            }
            text = start.config(servers, extra=extra, client={"header_timeout": f"{turn + 1}s"})
            text += f'\n[[route]]\nname = "other"\nhosts = ["other{turn}.test"]\nupstream = "other{turn}"\n'
            wsgate.reload(text)
        seen = len(crowd.sent)
        crowd.wait_for(lambda: len(crowd.sent) > seen + 2 * crowd.size, "everybody to go on talking")
        assert (crowd.closes, crowd.open) == ({}, crowd.size)
        assert wsgate.metrics().total("wsgate_reloads_total", result="ok") == 10
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_an_upstream_that_left_is_drained_into_its_heir(start, servers):
    first, second = servers
    wsgate = start(text=start.config([first]))
    with Crowd(f"ws://{wsgate.url}", size=40) as crowd:
        text = start.config([second]).replace("[upstream.main]", "[upstream.green]")
        wsgate.reload(text.replace('upstream = "main"', 'upstream = "green"'))
        crowd.wait_for(lambda: len(crowd.back) == crowd.size, "everybody to be back")
        assert (crowd.closes, crowd.refused) == ({1012: crowd.size}, {})
        _, body = request(wsgate, "GET", "/v1/status")
        assert body["upstreams"][0]["name"] == "green"
        assert body["upstreams"][0]["connections"] == crowd.size


def test_a_file_that_is_not_good_changes_nothing(start, servers):
    wsgate = start()
    good = wsgate.file.read_text()
    with Crowd(f"ws://{wsgate.url}", size=20) as crowd:
        wsgate.file.write_text(good.replace("servers = ", "server = "))
        wsgate.process.send_signal(signal.SIGHUP)
        line = wsgate.wait_for_log(lambda line: "configuration not reloaded" in line, "of the mistake")
        assert "nothing has changed" in line
        wsgate.wait_for_log(lambda line: "did you mean `servers`" in line, "of what would be right")
        code, shown = gate.run(["reload", "--admin", "{}:{}".format(*wsgate.admin)])
        assert code == 1 and "unknown key `server`" in shown and "wsgate.toml:" in shown and "^^^^" in shown, shown
        assert wsgate.metrics().total("wsgate_reloads_total", result="failed") == 2
        # A listener that cannot be had is no better.
        taken = '\n[[listener]]\nlisten = "{}:{}"\n'.format(*wsgate.admin)
        wsgate.file.write_text(good.replace("127.0.0.1:0", "127.0.0.1:1", 1) + taken + taken.replace("127.0.0.1", "[::1]"))
        code, shown = gate.run(["reload", "--admin", "{}:{}".format(*wsgate.admin)])
        assert code == 1 and "cannot listen on" in shown, shown
        assert (crowd.closes, crowd.open) == ({}, crowd.size)
        wsgate.file.write_text(good)
        assert gate.run(["reload", "--admin", "{}:{}".format(*wsgate.admin)]) == (0, "reloaded\n")
        assert crowd.closes == {}


def test_listeners_come_and_go(start, servers):
    wsgate = start()
    text = wsgate.file.read_text()
    with connect(f"ws://{wsgate.url}") as old:
        seen = len(wsgate.log)
        socket = wsgate.file.parent / "listener"
        wsgate.reload(text + f'\n[[listener]]\nlisten = "unix:{socket}"\n')
        wsgate.wait_for_log(lambda line: "listening" in line and str(socket) in line, "of the listener", seen)
        host, port = wsgate.address
        wsgate.reload(text.replace('listen = "127.0.0.1:0"', f'listen = "unix:{socket}"').replace(
            f'listen = "unix:{socket}"', 'listen = "127.0.0.1:0"', 1))
        with pytest.raises(OSError):
            connect(f"ws://{host}:{port}", open_timeout=TIMEOUT).close()
        old.send("old 0")
        assert status(wsgate)[servers[0].address]["connections"] + status(wsgate)[servers[1].address]["connections"] == 1


def test_the_token_is_read_again(start, tmp_path):
    token = tmp_path / "token"
    token.write_text("first")
    wsgate = start(admin=f'token_file = "{token}"')
    path = "/v1/upstreams/main/resume"
    assert request(wsgate, "POST", path, token="first")[0] == 200
    token.write_text("second")
    code, body = request(wsgate, "POST", "/v1/reload", token="first")
    assert (code, body["reloaded"]) == (200, True)
    assert request(wsgate, "POST", path, token="first")[0] == 401
    assert request(wsgate, "POST", path, token="second")[0] == 200


def test_without_a_file_there_is_nothing_to_reload(servers):
    arguments = ["--listen", "127.0.0.1:0", "--upstream", servers[0].address, "--admin", "127.0.0.1:0"]
    with gate.Gate.without_file(arguments) as wsgate:
        code, shown = gate.run(["reload", "--admin", "{}:{}".format(*wsgate.admin)])
        assert code == 1 and "without a file" in shown, shown
        wsgate.process.send_signal(signal.SIGHUP)
        wsgate.wait_for_log(lambda line: "without a file" in line, "of the reload")


def test_a_reload_back_to_what_was_at_the_start_warns_of_nothing(start, servers):
    """A setting that a reload cannot change is compared with the one in force, not with that of the last file."""
    text = start.config(servers)
    wsgate = start(text=text)
    later = "takes effect when wsgate is started anew"
    wsgate.reload("threads = 1\n" + text)
    assert len([line for line in wsgate.log if later in line]) == 1
    wsgate.reload(text)
    assert len([line for line in wsgate.log if later in line]) == 1, wsgate.log
