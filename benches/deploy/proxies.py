"""The three proxies, each as it is run in production, with one worker, and as its operators take a server out.

Each has `title`, `url`, `take_out(server)`, which returns when the server may be stopped, `let_back(server)`, which
returns when it gets connections again, `settle()`, which returns when nothing that the deploy began is under way any
more, and `stop()`. A server is known by its address. All waits are bounded.
"""

import pathlib
import re
import resource
import socket
import subprocess
import time

from programs import PATIENCE, Process, answers, find, free_port, wait_until
from rig import gate

def wait_at_most(seconds, condition):
    """What a script does that does not want to wait for ever: until the condition holds, or this long."""
    try:
        wait_until(condition, "", seconds)
    except TimeoutError:
        pass


def run(*command):
    """A command that has to go well."""
    done = subprocess.run(command, timeout=PATIENCE, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with status {done.returncode}: {done.stdout}{done.stderr}")


class Wsgate:
    """`wsgate drain`, which ends when all are gone, and `wsgate resume`. All settings are the defaults."""

    title = "wsgate: `drain`, `resume`"

    def __init__(self, directory, servers, wait, clients, pair=None):
        """Clients speak TLS where there is a pair of certificate and key."""
        text = gate.config(servers, listener={"certificates": [pair]} if pair else None)
        self._gate = gate.Gate(directory, "threads = 1\n" + text)
        self.url = self._gate.url
        self._admin = ["--admin", "{}:{}".format(*self._gate.admin)]

    def take_out(self, server):
        run(gate.BINARY, "drain", "main", "--server", server, *self._admin)

    def let_back(self, server):
        run(gate.BINARY, "resume", "main", "--server", server, *self._admin)

    def settle(self):
        pass

    def stop(self):
        self._gate.stop()


class Nginx:
    """The server is marked `down` and nginx reloads; the old worker keeps the connections it has.

    Without `worker_shutdown_timeout` it keeps them until the server ends them, and the script stops the server after
    `wait` seconds. With it the script waits until the old worker is gone.
    """

    title = "nginx: `down`, reload"
    cuts = False

    _CONFIG = """\
pid {directory}/pid;
worker_processes 1;
{shutdown}
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    upstream main {{
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port} {tls} backlog=4096;
        {certificate}
        location / {{
            proxy_pass http://main;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
    }}
}}
"""

    def __init__(self, directory, servers, wait, clients, pair=None):
        self._directory, self._servers, self._wait, self._clients = directory, servers, wait, clients
        self._port, self._down, self._pair = free_port(), None, pair
        self.url = f"127.0.0.1:{self._port}"
        self._command = [find("nginx"), "-p", directory, "-c", f"{directory}/nginx.conf", "-e", "stderr"]
        self._write()
        self._process = Process(directory, *self._command, "-g", "daemon off;")
        self._process.start(lambda: answers(self._port))

    def take_out(self, server):
        self._down = server
        self._reload()
        if self.cuts:
            self.settle()
        else:
            time.sleep(self._wait)

    def let_back(self, server):
        self._down = None
        self._reload()

    def settle(self):
        """Until the old workers are gone, if they go by themselves."""
        if self.cuts:
            wait_until(lambda: len(self._workers()) == 1, "the old workers to end")

    def stop(self):
        self._process.stop()

    def _write(self):
        servers = [f"server {server}{' down' if server == self._down else ''};" for server in self._servers]
        text = self._CONFIG.format(
            directory=self._directory,
            shutdown=f"worker_shutdown_timeout {self._wait}s;" if self.cuts else "",
            connections=4 * self._clients + 1024,
            servers="\n        ".join(servers),
            port=self._port,
            tls="ssl" if self._pair else "",
            certificate="ssl_certificate {cert}; ssl_certificate_key {key};".format(**self._pair) if self._pair else "",
        )
        pathlib.Path(self._directory, "nginx.conf").write_text(text)

    def _reload(self):
        """Until a new worker accepts and the old ones do not."""
        self._write()
        old = self._workers()
        run(*self._command, "-s", "reload")

        def replaced():
            accepting = [pid for pid, title in self._workers().items() if "shutting down" not in title]
            return accepting and not old.keys() & set(accepting)

        wait_until(replaced, "nginx to reload")

    def _workers(self):
        """The workers by process id, with their titles, which say whether they are shutting down."""
        workers = {}
        for pid in pathlib.Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            try:
                title = pathlib.Path(f"/proc/{pid}/cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "worker process" in title:
                workers[pid] = title
        return workers


class NginxWithTimeout(Nginx):
    title = "nginx: the same with `worker_shutdown_timeout`"
    cuts = True


class Haproxy:
    """Through the runtime API: the server is set to drain, and stopped when it has no connection or `wait` is over."""

    title = "HAProxy: `state drain`, `state ready`"

    _CONFIG = """\
global
    nbthread 1
    maxconn {connections}
    stats socket {directory}/api mode 600 level admin expose-fd listeners
    {end}
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
    timeout tunnel 1h
    option forwardfor
    option redispatch
frontend main
    bind 127.0.0.1:{port} backlog 4096{tls}
    default_backend be
backend be
    balance roundrobin
    {servers}
"""

    def __init__(self, directory, servers, wait, clients, pair=None):
        self._directory, self._servers, self._wait, self._clients = directory, servers, wait, clients
        self._port, self._down = free_port(), None
        self._tls = ""
        if pair:
            both = pathlib.Path(directory, "pair.pem")
            both.write_text(pathlib.Path(pair["cert"]).read_text() + pathlib.Path(pair["key"]).read_text())
            self._tls = f" ssl crt {both}"
        self.url = f"127.0.0.1:{self._port}"
        self._api = f"{directory}/api"
        self._processes = []
        self._start()

    def take_out(self, server):
        self._tell(f"set server be/{self._name(server)} state drain")
        wait_at_most(self._wait, lambda: self._state(server)["scur"] == "0")

    def let_back(self, server):
        self._tell(f"set server be/{self._name(server)} state ready")
        wait_until(lambda: self._state(server)["status"].startswith("UP"), "HAProxy to see the server up")

    def settle(self):
        pass

    def stop(self):
        for process in self._processes:
            process.stop()

    def _start(self, *arguments):
        file = pathlib.Path(self._directory, "haproxy.cfg")
        servers = [
            f"server {self._name(server)} {server} check inter 1s{' disabled' if server == self._down else ''}"
            for server in self._servers
        ]
        file.write_text(
            self._CONFIG.format(
                directory=self._directory,
                # Each connection has two files.
                connections=min(2 * self._clients + 1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100),
                end=f"hard-stop-after {self._wait}s",
                servers="\n    ".join(servers),
                port=self._port,
                tls=self._tls,
            )
        )
        process = Process(self._directory, find("haproxy"), "-db", "-f", str(file), *arguments)
        self._processes.append(process)
        process.start(lambda: answers(self._port) and self._says_its_pid(process.pid))

    def _says_its_pid(self, pid):
        """Whether this process has the socket already."""
        try:
            return re.search(r"^Pid: (\d+)$", self._tell("show info"), re.MULTILINE)[1] == str(pid)
        except OSError:
            return False

    def _name(self, server):
        return f"s{self._servers.index(server) + 1}"

    def _tell(self, command):
        """The answer of the runtime API."""
        with socket.socket(socket.AF_UNIX) as api:
            api.settimeout(PATIENCE)
            api.connect(self._api)
            api.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: api.recv(65536), b"")).decode()

    def _state(self, server):
        """What its statistics say of a server."""
        heading, *lines = self._tell("show stat be -1 -1").lstrip("# ").splitlines()
        rows = [dict(zip(heading.split(","), line.split(","))) for line in lines]
        return next(row for row in rows if row.get("svname") == self._name(server))


class HaproxyReload(Haproxy):
    """The server is `disabled` in the file; a new process takes the listeners over, the old one ends after `wait`."""

    title = "HAProxy: `disabled`, reload (`-sf`) with `hard-stop-after`"

    def take_out(self, server):
        self._down = server
        self._reload()
        self.settle()

    def let_back(self, server):
        self._down = None
        self._reload()

    def settle(self):
        """Until the old processes are gone."""
        wait_until(lambda: [process.runs() for process in self._processes].count(True) == 1, "old processes to end")
        self._processes = [process for process in self._processes if process.runs()]

    def stop(self):
        for process in self._processes:
            if process.runs():
                process.stop()

    def _reload(self):
        self._start("-x", self._api, "-sf", str(self._processes[-1].pid))


ALL = {
    "wsgate": Wsgate,
    "nginx": Nginx,
    "nginx-timeout": NginxWithTimeout,
    "haproxy": Haproxy,
    "haproxy-reload": HaproxyReload,
}
