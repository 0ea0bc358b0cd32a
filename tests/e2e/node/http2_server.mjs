// A server of WebSockets over HTTP/2 (RFC 8441) with Node's http2, and ws on its streams. Echoes; `/401` and `/302` are refused.
// Arguments: options as JSON: `key` and `cert` for TLS, `maxConcurrentStreams`, `enableConnectProtocol`. Prints events as lines of JSON.
// The line `goaway` on its standard input says GOAWAY on all connections.

import { readFileSync } from "node:fs";
import { createSecureServer, createServer } from "node:http2";
import { createInterface } from "node:readline";
import { WebSocket } from "ws";

const { key, cert, ...settings } = { enableConnectProtocol: true, ...JSON.parse(process.argv[2] ?? "{}") };
const say = (event) => console.log(JSON.stringify(event));
const server = key
  ? createSecureServer({ key: readFileSync(key), cert: readFileSync(cert), settings })
  : createServer({ settings });

const sessions = new Map();
let made = 0;
server.on("session", (session) => {
  made += 1;
  const number = made;
  sessions.set(session, number);
  say({ event: "session", session: number });
  session.on("error", () => {});
  session.on("close", () => {
    sessions.delete(session);
    say({ event: "session_closed", session: number });
  });
});

server.on("stream", (stream, headers) => {
  const path = headers[":path"];
  stream.on("error", () => {});
  if (headers[":method"] !== "CONNECT" || headers[":protocol"] !== "websocket") {
    stream.respond({ ":status": 200 });
    stream.end("plain");
    return;
  }
  if (path === "/401" || path === "/302") {
    stream.respond({ ":status": Number(path.slice(1)), location: "/elsewhere" });
    stream.end("the server's own words");
    return;
  }
  const [protocol] = (headers["sec-websocket-protocol"] ?? "").split(",");
  stream.respond({ ":status": 200, ...(protocol && { "sec-websocket-protocol": protocol }) });
  say({ event: "stream", session: sessions.get(stream.session), path, scheme: headers[":scheme"], authority: headers[":authority"] });
  const socket = new WebSocket(null, undefined, {});
  socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 16 << 20, skipUTF8Validation: false });
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on("error", () => {});
  socket.on("close", (code, reason) => say({ event: "closed", path, code, reason: reason.toString() }));
});

createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line !== "goaway") return;
    for (const session of sessions.keys()) session.goaway();
    say({ event: "goaway" });
  })
  // Never outlives the test.
  .on("close", () => process.exit(0));

server.listen(0, "127.0.0.1", () => say({ event: "listening", address: `127.0.0.1:${server.address().port}` }));
