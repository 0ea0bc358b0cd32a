"""Many clients that send numbered messages and reconnect as they are told, and servers that write down what they get."""

import asyncio
import bisect
import collections
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from .raw import TIMEOUT

SIZE = int(os.environ.get("WSGATE_CROWD", "200"))
"""Clients in a crowd."""

_SERVER = pathlib.Path(__file__).resolve().parent.parent / "peers/counting_server.py"
_DELAY = re.compile(r"^service restart; retry-after-ms=(\d+)$")


figures = []
"""What each crowd has seen, in a line; printed at the end of the run."""


class Counting:
    """A counting server in a process of its own, which can be killed and started again on its port."""

    def __init__(self, *, echo=False, capacity=None, host="127.0.0.1", port=0):
        """With a capacity it takes that number of upgrades per second."""
        self.received = collections.Counter()
        self._host, self._port, self._readers = host, port, []
        self._options = [*(["echo"] if echo else []), *([f"capacity={capacity}"] if capacity else [])]
        self.start()

    def start(self):
        """Starts it, on the port that it had."""
        command = [sys.executable, _SERVER, f"{self._host}:{self._port}", *self._options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening "), f"the server does not start: {line!r}"
        self.address = line.split()[1]
        self._port = int(self.address.rpartition(":")[2])
        self._readers.append(threading.Thread(target=self._read, args=[self.process.stdout], daemon=True))
        self._readers[-1].start()

    def say(self, status, version):
        """Has it answer plain requests, such as health checks, with this status and version from now on."""
        self.process.stdin.write(f"{status} {version}\n")
        self.process.stdin.flush()

    def stop(self):
        """Ends it as a deploy does; all that it received is read."""
        self.process.stdin.close()
        self._end()

    def kill(self):
        """`kill -9`."""
        self.process.kill()
        self._end()

    def _end(self):
        self.process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join(TIMEOUT)

    def _read(self, lines):
        for line in lines:
            self.received[line.rstrip("\n")] += 1


class Crowd:
    """Clients in a thread of their own, from `with` to its end."""

    def __init__(self, url, size=SIZE, pause=None, untold=(0.1, 0.1), *, heeds=True, ramp=0, context=None):
        """Least and most seconds between messages of a client, and until one that is not told how long reconnects.

        Clients that do not `heed` the delay that they are told reconnect like those that are not told. They connect first within
        `ramp` seconds, with this TLS context where the URL is of TLS.
        """
        # Python reads and writes some thousand messages a second: a larger crowd talks less, not more.
        pause = pause or [seconds * max(1, size / 300) for seconds in (0.05, 0.3)]
        self.url, self.size, self._pause, self._untold = url, size, pause, untold
        self._heeds, self._ramp, self._tls = heeds, ramp, {"ssl": context} if context else {}
        self.open = 0
        """Clients connected now."""
        self.closes = collections.Counter()
        """How connections ended, by code; 1006 is an end without a Close."""
        self.told, self.back = [], []
        """When connections ended, and when their clients were connected again."""
        self.tried = []
        """When clients that had been connected tried it again, with success or without."""
        self.took = []
        """Seconds that their successful attempts took."""
        self.refused = collections.Counter()
        """Attempts to connect that failed, by status; 0 where nobody answered in HTTP."""
        self.sent = []
        """Messages that were sent before their client received a Close."""
        self.reconnects = True
        self.talks = True
        self._figure = None
        """Its place in `figures`, once it is over."""

    def __enter__(self):
        self._thread = threading.Thread(target=asyncio.run, args=[self._run()], daemon=True)
        self._thread.start()
        self.wait_for(lambda: self.open == self.size, f"{self.size} clients to be connected", 2 * TIMEOUT + 2 * self._ramp)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(3 * TIMEOUT)
        assert not self._thread.is_alive(), "the crowd does not end"
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0].rpartition("::")[2]
        codes = ", ".join(f"{count} x {code}" for code, count in sorted(self.closes.items())) or "none"
        self._figure = len(figures)
        figures.append(
            f"{test}: {self.size} clients, closes: {codes}; {len(self.back)} back, {sum(self.refused.values())} attempts"
            f" failed, at most {peak(self.back, 1)} back in a second; {len(self.sent)} messages sent"
        )

    def wait_for(self, condition, what, within=2 * TIMEOUT):
        """Until the condition holds."""
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, (
                f"waited {within} s for {what}: {self.open} of {self.size} are connected, closes {dict(self.closes)},"
                f" refused {dict(self.refused)}"
            )
            time.sleep(0.02)

    def wait_until_all_are_back(self):
        """Until everybody who was closed is connected again."""
        self.wait_for(lambda: self.open == self.size and len(self.back) == len(self.told), "all to be back")

    def lost(self, *servers):
        """Messages that were sent and did not arrive exactly once, with how often they did."""
        arrived = sum((server.received for server in servers), collections.Counter())
        lost = {message: arrived[message] for message in self.sent if arrived[message] != 1}
        if self._figure is not None:
            figures[self._figure] += f", {len(lost)} of them lost or twice"
        return lost

    def fall_silent(self, *servers):
        """Ends the talking, and waits until all has arrived or nothing arrives any more: what is lost is lost now."""
        self.talks = False
        deadline, seen, quiet = time.monotonic() + 6 * TIMEOUT, None, time.monotonic()
        while (now := time.monotonic()) < deadline and now - quiet < 3 + self._pause[1]:
            arrived = len(self.sent), sum(server.received.total() for server in servers)
            if arrived != seen:
                seen, quiet = arrived, now
            time.sleep(0.1)

    def peak(self, width=0.25):
        """Most connections that ended within so many seconds."""
        return peak(self.told, width)

    async def _run(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        clients = {asyncio.create_task(self._live(number)) for number in range(self.size)}
        await self._over.wait()
        while clients:
            for client in clients:
                client.cancel()
            # Once more for those who were not told: `wait_for` of Python 3.11 loses it where what it waits for ends just then.
            _, clients = await asyncio.wait(clients, timeout=1)

    async def _live(self, number):
        messages = 0
        again = False
        await asyncio.sleep(self._ramp * number / self.size)
        while self.reconnects or not again:
            began = time.monotonic()
            if again:
                self.tried.append(began)
            try:
                websocket = await connect(self.url, compression=None, ping_interval=None, open_timeout=TIMEOUT, **self._tls)
            except (InvalidHandshake, OSError, EOFError) as error:
                self.refused[error.response.status_code if isinstance(error, InvalidStatus) else 0] += 1
                await asyncio.sleep(random.uniform(*self._untold))
                continue
            self.open += 1
            if again:
                self.back.append(time.monotonic())
                self.took.append(self.back[-1] - began)
            again = True
            try:
                while True:
                    if self.talks:
                        # A number is used once, even where the connection ends in the middle of it.
                        messages += 1
                        message = f"{number} {messages}"
                        await websocket.send(message)
                        self.sent.append(message)
                    try:
                        # A server that counts never answers: this only looks for the Close.
                        await asyncio.wait_for(websocket.recv(), random.uniform(*self._pause))
                    except TimeoutError:
                        pass
            except ConnectionClosed as closed:
                self.told.append(time.monotonic())
                self.closes[closed.rcvd.code if closed.rcvd else 1006] += 1
                reason = _DELAY.match(closed.rcvd.reason) if closed.rcvd else None
                await websocket.wait_closed()
                self.open -= 1
            except asyncio.CancelledError:
                # The test is over: the client is gone without a word.
                websocket.transport.abort()
                raise
            await asyncio.sleep(int(reason[1]) / 1000 if reason and self._heeds else random.uniform(*self._untold))


def peak(times, width):
    """Most of these moments within so many seconds."""
    times = sorted(times)
    return max((bisect.bisect_left(times, t + width) - i for i, t in enumerate(times)), default=0)
