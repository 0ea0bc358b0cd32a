"""HAProxy as a neighbour that nobody here wrote: it turns HTTP/1.1 into HTTP/2 before wsgate, and HTTP/2 into HTTP/1.1 behind it."""

import contextlib
import socket
import subprocess
import time

from .raw import TIMEOUT


class HAProxy:
    """A running HAProxy with one frontend and one server. As a context manager it is ended by its id."""

    def __init__(self, directory, server, *, bind="", to=""):
        """`bind` and `to` are options of its `bind` and `server` lines."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        file = directory / f"haproxy-{self.port}.cfg"
        file.write_text(
            f"""
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
frontend f
  bind {self.address} {bind}
  default_backend b
backend b
  server s {server} {to}
"""
        )
        self.process = subprocess.Popen(["haproxy", "-db", "-f", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), TIMEOUT):
                return
            assert self.process.poll() is None and time.monotonic() < deadline, "HAProxy does not listen"
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
