// A client of WebSockets over HTTP/2 (RFC 8441) with Node's http2, and ws on its streams: `count` of them on one connection, one after
// the other, each of which sends `messages` texts and waits for their echoes. Prints the result as one JSON object.
// Arguments: the URL of the server (http or https), options as JSON.

import { connect } from "node:http2";
import { once } from "node:events";
import { WebSocket } from "ws";

const [url, { count, messages }] = [process.argv[2], JSON.parse(process.argv[3])];
const session = connect(url, { rejectUnauthorized: false });
const [settings] = await once(session, "remoteSettings");

// ws makes the handshake of HTTP/1.1 itself; on a stream there is none, so its client is made of the parts that follow it.
function client(stream) {
  const socket = new WebSocket(null, undefined, {});
  socket._isServer = false;
  socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 16 << 20, skipUTF8Validation: false });
  return socket;
}

const result = { connect: settings.enableConnectProtocol, echoes: 0, codes: [] };
const sockets = [];
for (let index = 0; index < count; index += 1) {
  const stream = session.request({
    ":method": "CONNECT",
    ":protocol": "websocket",
    ":path": `/${index}`,
    ":scheme": "https",
    "sec-websocket-version": "13",
  });
  const [headers] = await once(stream, "response");
  if (headers[":status"] !== 200) throw new Error(`the answer is ${headers[":status"]}`);
  sockets.push(client(stream));
}
for (const socket of sockets) {
  for (let index = 0; index < messages; index += 1) {
    socket.send(`message ${index}`);
    const [data] = await once(socket, "message");
    if (data.toString() !== `message ${index}`) throw new Error(`the echo is ${data}`);
    result.echoes += 1;
  }
}
for (const socket of sockets) {
  socket.close(4001, "done");
  const [code] = await once(socket, "close");
  result.codes.push(code);
}
session.close();
console.log(JSON.stringify(result));
