"""A client with the reconnecting iterator of Python's `websockets`, as its documentation shows it.

Argument: the URL. What it prints is said in `rig/peers.py`. The iterator reconnects at once after a connection that
succeeded, whatever the Close says.
"""

import asyncio
import json
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


def say(event, **what):
    """One line for the test."""
    print(json.dumps({"event": event, "at": time.monotonic() * 1000, **what}), flush=True)


async def main(url):
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    number = 0
    async for websocket in connect(url):
        say("open")
        try:
            while not over.done():
                number += 1
                await websocket.send(str(number))
                say("sent", message=str(number))
                try:
                    say("echo", message=await asyncio.wait_for(websocket.recv(), 0.01))
                except TimeoutError:
                    pass
                await asyncio.sleep(0.005)
            await websocket.close()
            break
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            say("close", code=code, reason=reason)


asyncio.run(main(sys.argv[1]))
