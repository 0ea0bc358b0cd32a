"""Tests that need a network, or a resolver, of their own: they run in namespaces of the kernel, where they are root."""

import functools
import os
import pathlib
import subprocess
import sys

from .raw import TIMEOUT

_INSIDE = "WSGATE_IN_NAMESPACE"


def in_namespace(test):
    """Runs the test in a network and a mount namespace of its own, whose loopback interface is up."""

    @functools.wraps(test)
    def run(*arguments, **fixtures):
        if os.environ.get(_INSIDE):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            return test(*arguments, **fixtures)
        name = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0].rpartition("::")[2]
        file = pathlib.Path(sys.modules[test.__module__].__file__)
        command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", f"{file}::{name}"]
        inner = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "--net", *command],
            env=os.environ | {_INSIDE: "1"},
            capture_output=True,
            text=True,
            timeout=12 * TIMEOUT,
        )
        assert inner.returncode == 0, f"in its namespace:\n{inner.stdout}{inner.stderr}"
        return None

    return run


def resolve_by(address, directory):
    """Has everybody in the namespace ask the DNS server at this IP address, at port 53."""
    file = pathlib.Path(directory) / "resolv.conf"
    file.write_text(f"nameserver {address}\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", file, "/etc/resolv.conf"], check=True)
