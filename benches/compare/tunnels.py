"""The proxies that are compared: each with one worker, no access log, all time-outs long, and the system's keep-alive on
both sides, without which a tunnel never finds out that a peer has vanished (wsgate, Caddy and Traefik have it by default).

Each is a process on a core of its own in front of one server; `process` is it, `url` where it listens. wsgate is there
twice: as it comes, inspecting everything, and with `inspect = false` on the route.
"""

import http.client
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess

from programs import Process, find, free_port, version

CORE = str(min(os.sched_getaffinity(0)))
"""Where the proxy runs; load and server have the other core."""


class Named(http.client.HTTPSConnection):
    """Asks for the name that the certificate has, wherever it is: Caddy and Traefik have no other."""

    def connect(self):
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname="bench.test")


def make_certificate(directory):
    """`cert.pem` and `key.pem`, and both in `both.pem`."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=bench.test", "-days", "7"]
    command += ["-addext", "subjectAltName=DNS:bench.test"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)
    parts = [pathlib.Path(directory, name).read_text() for name in ("cert.pem", "key.pem")]
    pathlib.Path(directory, "both.pem").write_text("".join(parts))


def passes(port, tls):
    """Whether the server answers through it: it has a word of its own for a request that asks for nothing."""
    if tls:
        context = ssl.create_default_context(cafile=None)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = Named("127.0.0.1", port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 400
    except OSError:
        return False
    finally:
        connection.close()


class Tunnel:
    """A program with a file of configuration. `{port}`, `{server}` (with `{host}` and its `{server_port}`) and
    `{directory}` are filled in; a brace that is meant is doubled."""

    title = program = file = text = ""
    more = {}
    arguments = ()
    says_version = ("--version",)
    secure = ()
    """What to replace in its files by what, so that clients speak TLS."""
    http2 = None
    """What to replace so that HTTP/2 is spoken on both sides, without TLS; `None` where it cannot be for WebSockets."""

    def __init__(self, directory, server, binaries, tls=False, http2=False):
        host, server_port = server.rsplit(":", 1)
        port = free_port()
        self.url = f"{'tls:' if tls else 'h2:' if http2 else ''}127.0.0.1:{port}"
        file = pathlib.Path(directory, self.file)
        values = {"directory": directory, "file": file, "port": port, "admin": free_port()}
        values |= {"server": server, "host": host, "server_port": server_port}
        self.values = values
        for name, text in ({self.file: self.text} | self.more).items():
            for before, after in self.secure if tls else self.http2 if http2 else ():
                assert before in text, before
                text = text.replace(before, after)
            pathlib.Path(directory, name).write_text(text.format(**values))
        if tls:
            make_certificate(directory)
        arguments = [argument.format(**values) for argument in self.arguments]
        self._process = Process(directory, "taskset", "-c", CORE, self.path(binaries), *arguments)
        self._process.start(lambda: passes(port, tls))
        self.pid = self._process.pid

    @classmethod
    def path(cls, binaries):
        return find(cls.program) or str(binaries / cls.program)

    @classmethod
    def version(cls, binaries):
        said = version(cls.path(binaries), *cls.says_version)
        return f"{cls.title.split(',')[0]} {re.search(r'[0-9]+([.][0-9]+)+', said)[0]}"

    def stop(self):
        self._process.stop()


class Wsgate(Tunnel):
    """All settings are the defaults but for the line that the log has of each connection."""

    title = "wsgate"
    program = "wsgate"
    file = "wsgate.toml"
    arguments = ("run", "--config", "{file}")
    text = """\
threads = 1
[log]
level = "warn"
[admin]
listen = "127.0.0.1:{admin}"
[[listener]]
listen = "127.0.0.1:{port}"
[upstream.main]
servers = ["{server}"]
[[route]]
name = "main"
upstream = "main"
"""
    secure = (
        ('listen = "127.0.0.1:{port}"\n',
         'listen = "127.0.0.1:{port}"\ncertificates = [{{ cert = "{directory}/cert.pem", key = "{directory}/key.pem" }}]\n'),
    )

    http2 = (
        ('listen = "127.0.0.1:{port}"\n', 'listen = "127.0.0.1:{port}"\nhttp2_clear_text = true\n'),
        ('servers = ["{server}"]\n', 'servers = ["{server}"]\nhttp2 = "only"\n'),
    )

    @classmethod
    def path(cls, binaries):
        return os.environ["WSGATE_BIN"]


class WsgateBefore(Wsgate):
    """Another build of wsgate (`--before`), to compare two builds in one interleaved run."""

    title = "wsgate, before"

    @classmethod
    def path(cls, binaries):
        return os.environ["WSGATE_BEFORE_BIN"]


class WsgateBlind(Wsgate):
    title = "wsgate, `inspect = false`"
    text = Wsgate.text + "inspect = false\n"


class Draining(Wsgate):
    """With an upstream of their own for those who ask for messages of 4 KiB."""

    title = "wsgate"
    text = Wsgate.text + """\
[upstream.other]
servers = ["{server}"]
[[route]]
name = "other"
path = "/ascii/4096"
upstream = "other"
"""

    def drain(self, seconds):
        """Has it tell the clients of the other upstream to go, all within so many seconds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.values["admin"], timeout=5)
        over = json.dumps({"over": f"{round(seconds * 1000)}ms", "force": True})
        connection.request("POST", "/v1/upstreams/other/drain", over, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status in (200, 202), answer.read()
        connection.close()


class Nginx(Tunnel):
    title = "nginx"
    program = "nginx"
    file = "nginx.conf"
    arguments = ("-p", "{directory}", "-c", "{file}", "-e", "stderr", "-g", "daemon off;")
    says_version = ("-v",)
    secure = (
        ("so_keepalive=on;",
         "so_keepalive=on ssl; ssl_certificate {directory}/cert.pem; ssl_certificate_key {directory}/key.pem;"),
    )
    text = """\
pid {directory}/pid;
worker_processes 1;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream main {{ server {server}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096 so_keepalive=on;
        location / {{
            proxy_pass http://main;
            proxy_http_version 1.1;
            proxy_socket_keepalive on;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            BUFFERS
        }}
    }}
}}
"""


class NginxLarge(Nginx):
    """With room for 64 KiB at once."""

    title = "nginx, `proxy_buffer_size 64k`"


Nginx.text, NginxLarge.text = (
    Nginx.text.replace("BUFFERS", buffers)
    for buffers in ("", "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;")
)


class Haproxy(Tunnel):
    title = "HAProxy"
    program = "haproxy"
    file = "haproxy.cfg"
    arguments = ("-db", "-f", "{file}")
    says_version = ("-v",)
    secure = (("backlog 4096", "backlog 4096 ssl crt {directory}/both.pem"),)
    http2 = (
        # A bind line that names the protocol takes no other, and `passes` asks in HTTP/1.1: this one finds out.
        ("    nbthread 1\n", "    nbthread 1\n    tune.h2.max-concurrent-streams 1000\n"),
        ("server one {server}", "server one {server} proto h2 ws h2"),
    )
    text = """\
global
    nbthread 1
    maxconn 9000
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-request 10s
    timeout tunnel 1h
    option clitcpka
    option srvtcpka
    option forwardfor
frontend main
    bind 127.0.0.1:{port} backlog 4096
    default_backend be
backend be
    server one {server}
"""


class Envoy(Tunnel):
    title = "Envoy"
    program = "envoy"
    file = "envoy.yaml"
    arguments = ("-c", "{file}", "--concurrency", "1", "--log-level", "warn", "--disable-hot-restart")
    secure = (
        ("    filter_chains:\n    - filters:\n", """\
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{ filename: {directory}/cert.pem }}
              private_key: {{ filename: {directory}/key.pem }}
      filters:
"""),
    )
    http2 = (
        ("          upgrade_configs:", "          http2_protocol_options: {{ allow_connect: true, max_concurrent_streams: 1000 }}\n          upgrade_configs:"),
        ("    connect_timeout: 5s\n", """\
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {{ allow_connect: true, max_concurrent_streams: 100 }}
"""),
    )
    text = """\
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    tcp_backlog_size: 4096
    socket_options: [{{ description: SO_KEEPALIVE, level: 1, name: 9, int_value: 1, state: STATE_PREBIND }}]
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          stream_idle_timeout: 3600s
          use_remote_address: true
          upgrade_configs: [{{ upgrade_type: websocket }}]
          route_config:
            virtual_hosts:
            - name: main
              domains: ["*"]
              routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: main, timeout: 0s }} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: main
    type: STATIC
    connect_timeout: 5s
    upstream_connection_options: {{ tcp_keepalive: {{ keepalive_time: 60 }} }}
    circuit_breakers:
      thresholds: [{{ max_connections: 60000, max_requests: 60000, max_pending_requests: 60000 }}]
    load_assignment:
      cluster_name: main
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{ socket_address: {{ address: {host}, port_value: {server_port} }} }}
"""


class Caddy(Tunnel):
    title = "Caddy"
    program = "caddy"
    file = "Caddyfile"
    arguments = ("run", "--config", "{file}", "--adapter", "caddyfile")
    says_version = ("version",)
    secure = (
        ("http://:{port} {{\n", "https://:{port} {{\n    tls {directory}/cert.pem {directory}/key.pem\n"),
    )
    text = """\
{{
    admin off
    auto_https off
    persist_config off
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy {server}
}}
"""


class Traefik(Tunnel):
    title = "Traefik"
    program = "traefik"
    file = "traefik.toml"
    arguments = ("--configFile={file}",)
    says_version = ("version",)
    secure = (
        ('address = "127.0.0.1:{port}"\n', 'address = "127.0.0.1:{port}"\n[entryPoints.main.http.tls]\n'),
        ("[http.routers.main]\n", """\
[[tls.certificates]]
certFile = "{directory}/cert.pem"
keyFile = "{directory}/key.pem"
[http.routers.main]
"""),
    )
    text = """\
[global]
checkNewVersion = false
sendAnonymousUsage = false
[log]
level = "WARN"
[entryPoints.main]
address = "127.0.0.1:{port}"
[providers.file]
filename = "{directory}/routes.toml"
"""
    more = {
        "routes.toml": """\
[http.routers.main]
rule = "PathPrefix(`/`)"
service = "main"
[http.services.main.loadBalancer]
[[http.services.main.loadBalancer.servers]]
url = "http://{server}"
"""
    }

    @classmethod
    def version(cls, binaries):
        done = subprocess.run([cls.path(binaries), "version"], capture_output=True, text=True, check=True, timeout=60)
        return "Traefik " + done.stdout.split("Version:")[1].split()[0]


class Bare(Tunnel):
    """One read and one write for each piece, and nothing else: what nobody can be below who makes these calls."""

    title = "(a bare tunnel)"
    file = "none"
    arguments = ("tunnel", "{port}", "{server}")

    @classmethod
    def path(cls, binaries):
        return os.environ["LOAD_BIN"]

    @classmethod
    def version(cls, binaries):
        return ""


class Direct:
    """Nobody in between: what load and server can do."""

    title = "(none)"
    pid = None
    http2 = ()

    def __init__(self, directory, server, binaries, tls=False, http2=False):
        self.url = f"h2:{server}" if http2 else server

    @classmethod
    def version(cls, binaries):
        return ""

    def stop(self):
        pass


ALL = {
    "wsgate": Wsgate,
    "wsgate-before": WsgateBefore,
    "wsgate-blind": WsgateBlind,
    "nginx": Nginx,
    "nginx-64k": NginxLarge,
    "haproxy": Haproxy,
    "envoy": Envoy,
    "caddy": Caddy,
    "traefik": Traefik,
    "bare": Bare,
    "direct": Direct,
}
