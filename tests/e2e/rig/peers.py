"""Real clients and servers that nobody here wrote: their processes, and how a client's run is asked for."""

import itertools
import json
import pathlib
import subprocess
import sys
import threading
import time

from . import gate
from .raw import TIMEOUT

HERE = pathlib.Path(__file__).resolve().parent.parent
SERVERS = {
    "websockets": [sys.executable, HERE / "peers/websockets_server.py"],
    "ws": ["node", HERE / "node/ws_server.mjs"],
}
CLIENTS = {
    "websockets": [sys.executable, HERE / "peers/websockets_client.py"],
    "ws": ["node", HERE / "node/ws_client.mjs"],
    "chromium": ["node", HERE / "node/chromium_client.mjs"],
    "tungstenite": [gate.BINARY.parent / "examples/tungstenite_client"],
}

_RUNS = itertools.count(1)


class Server:
    """A server in another process; `events` are what it printed."""

    def __init__(self, name):
        """Starts it and waits until it listens. It ends when its standard input does."""
        self.name, self.events = name, []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(SERVERS[name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self.wait_for(lambda event: event["event"] == "listening", "its address")["address"]

    def wait_for(self, found, what):
        """The first event for which `found(event)` is true; waits for it."""
        deadline = time.monotonic() + TIMEOUT
        with self._changed:
            while True:
                for event in self.events:
                    if found(event):
                        return event
                left = deadline - time.monotonic()
                assert left > 0, f"the {self.name} server did not tell of {what}; it told of {self.events[-20:]}"
                self._changed.wait(left)

    def closed(self, path):
        """What it saw at the end of the connection to `path`."""
        return self.wait_for(lambda event: event.get("path") == path, f"the end of {path}")

    def stop(self):
        """Ends it."""
        self.process.stdin.close()
        self.process.wait(TIMEOUT)

    def _read(self):
        for line in self.process.stdout:
            with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()


class Run:
    """What a client found when it played all its scenarios through an address."""

    def __init__(self, client, address, bad, profile):
        """Runs the client to its end; `bad` are frames in hex, by side and name."""
        self.path = f"/run-{next(_RUNS)}"
        command = [*CLIENTS[client], f"ws://{address}{self.path}", json.dumps(bad)]
        if client == "chromium":
            command.append(profile)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=80)
        assert done.returncode == 0, f"the {client} client ended with {done.returncode}:\n{done.stderr}"
        self._results = json.loads(done.stdout)

    def result(self, scenario):
        """What the client found in one scenario."""
        result = self._results[scenario]
        assert "error" not in result, f"{scenario}: {result['error']}"
        return result
