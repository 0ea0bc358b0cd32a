"""What the tests are made of: frames by hand, raw peers, the proxy as a process, and peers in other languages.

`frames` builds and parses frames without any WebSocket library, so that what the proxy does is judged by something
that shares no code with it. `raw` puts them on sockets, on both sides. `gate` runs the proxy, `session` joins the
three, `metrics` reads what the proxy says of itself, `peers` runs real clients and servers.
"""
