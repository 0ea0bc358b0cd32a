"""A server that writes down what it receives: one line for each message, flushed before it reads on.

`counting_server.py HOST:PORT [echo] [capacity=N]`, where port 0 takes a free one; the first line it prints is `listening
HOST:PORT`. With `echo` it sends each message back. With `capacity=N` it takes N upgrades per second, one after the other: the
others wait. A plain request is answered with the status and `X-Version` that the last line
`STATUS VERSION` of its standard input named, at first `200 v1`. It ends with its standard input, or by being killed.
"""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

said = ["200", "v1"]


def answer(connection, request):
    if "Upgrade" not in request.headers:
        response = connection.respond(int(said[0]), "as I was told\n")
        response.headers["X-Version"] = said[1]
        return response
    return None


class Turns:
    """Upgrades one after the other, so many per second."""

    def __init__(self, capacity):
        self._step, self._free = 1 / capacity, 0

    async def answer(self, connection, request):
        if "Upgrade" in request.headers:
            now = asyncio.get_running_loop().time()
            self._free = max(self._free, now) + self._step
            await asyncio.sleep(self._free - now)
        return answer(connection, request)


def listen_to_orders():
    for line in sys.stdin:
        said[:] = line.split()


async def main(host, port, echo, capacity):
    async def write_down(websocket):
        try:
            async for message in websocket:
                print(message, flush=True)
                if echo:
                    await websocket.send(message)
        except ConnectionClosed:
            pass

    options = {"compression": None, "ping_interval": None, "process_request": Turns(capacity).answer if capacity else answer}
    async with serve(write_down, host, int(port), **options) as server:
        print("listening {}:{}".format(*server.sockets[0].getsockname()), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, listen_to_orders)


capacities = [float(option.removeprefix("capacity=")) for option in sys.argv[2:] if option.startswith("capacity=")]
asyncio.run(main(*sys.argv[1].rsplit(":", 1), "echo" in sys.argv[2:], *(capacities or [None])))
