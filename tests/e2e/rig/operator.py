"""What an operator asks of the admin listener."""

import json
import time
import urllib.error
import urllib.request

from .raw import TIMEOUT


def request(wsgate, method, path, body=None, token=None):
    """Status and JSON of a request to the admin listener."""
    asked = urllib.request.Request("http://{}:{}{}".format(*wsgate.admin, path), method=method)
    asked.data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    asked.add_header("Content-Type", "application/json")
    if token:
        asked.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def status(wsgate, token=None):
    """The servers of the one upstream, by address."""
    _, body = request(wsgate, "GET", "/v1/status", token=token)
    return {server["address"]: server for server in body["upstreams"][0]["servers"]}


def wait_until_drained(wsgate):
    """Until the upstream has had a drain, and it does not run any more; the last one."""
    deadline = time.monotonic() + 3 * TIMEOUT
    while True:
        _, body = request(wsgate, "GET", "/v1/upstreams/main/drain")
        # What a reload leaves behind is drained as soon as somebody else can take it.
        last = body["drains"][-1] if body["drains"] else None
        if last and last["state"] != "running" and last["closing"] == 0:
            return last
        assert time.monotonic() < deadline, f"the drain does not end: {last}"
        time.sleep(0.05)
