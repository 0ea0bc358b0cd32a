"""A client with Python's `websockets`: plays the scenarios against a URL and prints their results as one JSON object.

The results have the same form as those of `scenarios.mjs`; a scenario that fails has an "error".
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

TIMEOUT = 10


async def echoed(websocket, message):
    """Whether what comes back is what was sent."""
    await websocket.send(message)
    answer = await websocket.recv()
    return {"equal": answer == message, "size": len(answer)}


async def asked(websocket, command):
    """What the server answers to a command."""
    await websocket.send(command)
    return {"answer": await websocket.recv()}


async def told(websocket):
    """The Close that comes, and how many messages came before it."""
    messages = 0
    try:
        while True:
            await websocket.recv()
            messages += 1
    except ConnectionClosed:
        await websocket.wait_closed()
    received = websocket.protocol.close_rcvd
    assert received is not None, "the connection ended without a Close"
    return {"code": received.code, "reason": received.reason, "messages": messages}


async def client_closes(websocket, code):
    """Close with a reason; the answer of the other side."""
    await websocket.close(code, "done")
    return await told(websocket)


async def server_closes(websocket, code):
    await websocket.send(f"cmd:close:{code}:go away")
    return await told(websocket)


async def raw_from_server(websocket, wire):
    await websocket.send(f"cmd:raw:{wire}")
    return await told(websocket)


async def raw_from_client(websocket, wire):
    websocket.transport.write(bytes.fromhex(wire))
    return await told(websocket)


async def many(websocket):
    """Messages of growing size, all under way at once, come back in order."""
    messages = ["ä" * size if size % 2 else b"b" * size for size in range(0, 3000, 15)]
    sending = asyncio.create_task(send_all(websocket, messages))
    answers = [await websocket.recv() for _ in messages]
    await sending
    return {"equal": answers == messages, "size": len(answers)}


async def send_all(websocket, messages):
    for message in messages:
        await websocket.send(message)


async def fragments_from_client(websocket):
    await websocket.send(["gr", "ü", "", "ße"])
    return {"answer": await websocket.recv()}


async def ping_from_client(websocket):
    await (await websocket.ping(b"from the client"))
    return {"answer": "pong received"}


async def subprotocol(websocket):
    return {"agreed": websocket.subprotocol or "", **await asked(websocket, "cmd:subprotocol")}


def scenarios(bad):
    """Name of each, the subprotocols it offers, and what it does."""
    large_text = "ä€😀" * ((1 << 20) // 9 + 1)
    large_json = json.dumps([{"id": n, "text": f"größe {n * 7919 % 997}"} for n in range(30_000)]).ljust(1 << 20)
    large_binary = bytes(range(256)) * (4 << 12)
    yield "text", [], lambda w: echoed(w, "grüße, 世界 🌍")
    yield "empty_text", [], lambda w: echoed(w, "")
    yield "binary", [], lambda w: echoed(w, bytes(range(256)))
    yield "large_text", [], lambda w: echoed(w, large_text)
    yield "large_json", [], lambda w: echoed(w, large_json)
    yield "large_binary", [], lambda w: echoed(w, large_binary)
    yield "many", [], many
    yield "fragments_from_server", [], lambda w: asked(w, "cmd:fragments")
    yield "fragments_from_client", [], fragments_from_client
    yield "ping_from_server", [], lambda w: asked(w, "cmd:ping")
    yield "ping_from_client", [], ping_from_client
    yield "subprotocol", ["chat.v2", "chat.v1"], subprotocol
    yield "no_subprotocol", [], subprotocol
    for code in (1000, 4001):
        yield f"client_closes_{code}", [], lambda w, code=code: client_closes(w, code)
        yield f"server_closes_{code}", [], lambda w, code=code: server_closes(w, code)
    for name, wire in bad["server"].items():
        yield f"server_sends_{name}", [], lambda w, wire=wire: raw_from_server(w, wire)
    for name, wire in bad["client"].items():
        yield f"client_sends_{name}", [], lambda w, wire=wire: raw_from_client(w, wire)


async def play(url, offered, act):
    """One scenario on a connection of its own."""
    async with connect(url, subprotocols=offered or None, max_size=16 << 20) as websocket:
        extensions = websocket.response.headers.get("Sec-WebSocket-Extensions", "")
        return await act(websocket) | {"extensions": extensions}


async def main(base, bad):
    results = {}
    for name, offered, act in scenarios(bad):
        try:
            results[name] = await asyncio.wait_for(play(f"{base}/{name}", offered, act), TIMEOUT)
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(results))


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
