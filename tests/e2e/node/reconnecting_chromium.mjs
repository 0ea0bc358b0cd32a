// A page in headless Chromium that reconnects by the very lines which README.md shows.
// Arguments: the URL, a directory for its profile. What it prints is said in rig/peers.py.

import { readFileSync } from "node:fs";
import { launch } from "./chromium.mjs";

const [url, profile] = process.argv.slice(2);
const readme = readFileSync(new URL("../../../README.md", import.meta.url), "utf8");
const [, lines] = /A browser that honours the delay:\s+```js\n(.*?)```/s.exec(readme);

const browser = await launch(profile);
const page = await browser.newPage();
await page.exposeFunction("print", (line) => console.log(line));
await page.evaluate(
  ([url, lines]) => {
    const say = (event, what) => window.print(JSON.stringify({ event, at: performance.now(), ...what }));
    const reconnects = new Function("socket", "connect", lines);
    let socket;
    let number = 0;
    function connect() {
      socket = new WebSocket(url);
      socket.addEventListener("open", () => say("open"));
      socket.addEventListener("message", ({ data }) => say("echo", { message: data }));
      socket.addEventListener("close", ({ code, reason }) => say("close", { code, reason }));
      reconnects(socket, connect);
    }
    connect();
    const talk = setInterval(() => {
      if (socket.readyState !== WebSocket.OPEN) return;
      number += 1;
      socket.send(String(number));
      say("sent", { message: String(number) });
    }, 10);
    window.end = () => {
      clearInterval(talk);
      const closed = new Promise((resolve) => {
        socket.onclose = resolve;
      });
      socket.close();
      return closed.then(() => undefined);
    };
  },
  [url, lines],
);

process.stdin.resume().on("end", async () => {
  await page.evaluate(() => window.end());
  await browser.close();
});
