"""A server that writes down what it receives: one line for each message, flushed before it reads on.

`counting_server.py PORT [echo]`, where port 0 takes a free one; the first line it prints is `listening HOST:PORT`. With
`echo` it sends each message back. It ends with its standard input, or by being killed.
"""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def main(port, echo):
    async def write_down(websocket):
        try:
            async for message in websocket:
                print(message, flush=True)
                if echo:
                    await websocket.send(message)
        except ConnectionClosed:
            pass

    async with serve(write_down, "127.0.0.1", port, compression=None, ping_interval=None) as server:
        print("listening {}:{}".format(*server.sockets[0].getsockname()), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(int(sys.argv[1]), sys.argv[2:] == ["echo"]))
