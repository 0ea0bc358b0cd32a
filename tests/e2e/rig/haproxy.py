"""HAProxy as a neighbour that nobody here wrote: it turns HTTP/1.1 into HTTP/2 before wsgate, and HTTP/2 into HTTP/1.1 behind it."""

import socket
import subprocess

from .raw import wait_until_listening


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
        wait_until_listening(("127.0.0.1", self.port), self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
