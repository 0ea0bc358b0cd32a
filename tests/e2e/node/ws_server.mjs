// A server with Node's ws; says and does the same as peers/websockets_server.py.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const TYPES = { "/page.html": "text/html; charset=utf-8", "/scenarios.mjs": "text/javascript" };
const say = (event) => console.log(JSON.stringify(event));

const http = createServer((request, response) => {
  const type = TYPES[request.url];
  if (!type) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { "Content-Type": type }).end(readFileSync(new URL(`.${request.url}`, import.meta.url)));
});

const commands = {
  close(socket, rest) {
    const [, code, reason] = /^(\d+):(.*)$/.exec(rest);
    socket.close(Number(code), reason);
  },
  ping(socket) {
    socket.once("pong", () => socket.send("pong received"));
    socket.ping("from the server");
  },
  fragments(socket) {
    socket.send("one, ", { fin: false });
    socket.send("two, ", { fin: false });
    socket.send("thrée", { fin: true });
  },
  subprotocol: (socket) => socket.send(socket.protocol),
  raw: (socket, rest) => socket._socket.write(Buffer.from(rest, "hex")),
};

const server = new WebSocketServer({
  server: http,
  perMessageDeflate: true,
  maxPayload: 16 << 20,
  handleProtocols: (offered) => (offered.has("chat.v1") ? "chat.v1" : false),
});

server.on("connection", (socket, request) => {
  let messages = 0;
  socket.on("message", (data, isBinary) => {
    messages += 1;
    const command = isBinary ? null : /^cmd:(\w+):?(.*)$/s.exec(data.toString());
    if (command) commands[command[1]](socket, command[2]);
    else socket.send(data, { binary: isBinary });
  });
  // A broken frame of a client that came here directly; what follows it is the closed event.
  socket.on("error", () => {});
  socket.on("close", (code, reason) => {
    say({ event: "closed", path: request.url, code, reason: reason.toString(), messages });
  });
});

http.listen(0, "127.0.0.1", () => say({ event: "listening", address: `127.0.0.1:${http.address().port}` }));

// Never outlives the test.
process.stdin.resume().on("end", () => process.exit(0));
