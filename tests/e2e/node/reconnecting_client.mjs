// A client with Node's ws and the package reconnecting-websocket, which keeps what is sent meanwhile.
// Argument: the URL. What it prints is said in rig/peers.py.

import ReconnectingWebSocket from "reconnecting-websocket";
import WebSocket from "ws";

const say = (event, what) => console.log(JSON.stringify({ event, at: performance.now(), ...what }));

// Its default is 1 to 5 s.
const socket = new ReconnectingWebSocket(process.argv[2], [], { WebSocket, minReconnectionDelay: 200 });
socket.addEventListener("open", () => say("open"));
socket.addEventListener("message", ({ data }) => say("echo", { message: data }));

let number = 0;
const talk = setInterval(() => {
  number += 1;
  socket.send(String(number));
  say("sent", { message: String(number) });
}, 10);

let over = false;
socket.addEventListener("close", ({ code, reason }) => {
  say("close", { code, reason });
  if (over) process.exit(0);
});

process.stdin.resume().on("end", () => {
  over = true;
  clearInterval(talk);
  socket.close();
});
