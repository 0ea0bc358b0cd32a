"""A server with Python's `websockets`: echoes, obeys commands, serves the test page, and prints what it saw.

Prints one JSON object a line: `{"event": "listening", "address": ...}` at first, and at the end of each connection
`{"event": "closed", "path": ..., "code": ..., "reason": ..., "messages": ...}`. The Node server speaks the same.
"""

import asyncio
import json
import pathlib
import sys

from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response

FILES = pathlib.Path(__file__).resolve().parent.parent / "node"
TYPES = {"page.html": "text/html; charset=utf-8", "scenarios.mjs": "text/javascript"}


def say(**event):
    """One line for the test."""
    print(json.dumps(event), flush=True)


async def obey(websocket, command):
    """A text message `cmd:...`."""
    name, _, rest = command.removeprefix("cmd:").partition(":")
    if name == "close":
        code, _, reason = rest.partition(":")
        await websocket.close(int(code), reason)
    elif name == "ping":
        await (await websocket.ping(b"from the server"))
        await websocket.send("pong received")
    elif name == "fragments":
        await websocket.send(["one, ", "two, ", "thrée"])
    elif name == "subprotocol":
        await websocket.send(websocket.subprotocol or "")
    elif name == "raw":
        websocket.transport.write(bytes.fromhex(rest))
    else:
        raise ValueError(f"unknown command {command!r}")


async def handle(websocket):
    """One connection, to its end."""
    messages = 0
    try:
        async for message in websocket:
            messages += 1
            if isinstance(message, str) and message.startswith("cmd:"):
                await obey(websocket, message)
            else:
                await websocket.send(message)
    except ConnectionClosed:
        pass
    await websocket.wait_closed()
    say(
        event="closed",
        path=websocket.request.path,
        code=websocket.close_code,
        reason=websocket.close_reason,
        messages=messages,
    )


def serve_file(connection, request):
    """Plain requests get a file; `None` lets the handshake go on."""
    name = request.path.lstrip("/")
    if name not in TYPES:
        return None
    body = (FILES / name).read_bytes()
    headers = Headers({"Content-Type": TYPES[name], "Content-Length": str(len(body)), "Connection": "close"})
    return Response(200, "OK", headers, body)


def choose_subprotocol(connection, offered):
    """The only one this server speaks."""
    return "chat.v1" if "chat.v1" in offered else None


async def main():
    """Until its standard input ends, so that it never outlives the test."""
    async with serve(
        handle,
        "127.0.0.1",
        0,
        process_request=serve_file,
        select_subprotocol=choose_subprotocol,
        max_size=16 << 20,
    ) as server:
        say(event="listening", address="{}:{}".format(*server.sockets[0].getsockname()))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
