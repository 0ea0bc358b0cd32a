// A client with Node's ws: the common scenarios, and those that need more than the browser's API.
// Arguments: base URL, bad frames as JSON. Prints the results as one JSON object.

import WebSocket from "ws";
import { play, scenarios } from "./scenarios.mjs";

const [base, bad] = [process.argv[2], JSON.parse(process.argv[3])];

async function fragmentsFromClient(connection) {
  connection.socket.send("gr", { fin: false });
  connection.socket.send("ü", { fin: false });
  connection.socket.send("", { fin: false });
  connection.socket.send("ße", { fin: true });
  return { answer: await connection.receive() };
}

async function pingFromClient(connection) {
  const pong = new Promise((resolve) => connection.socket.once("pong", resolve));
  connection.socket.ping("from the client");
  const payload = (await pong).toString();
  if (payload !== "from the client") throw new Error(`a pong with ${payload}`);
  return { answer: "pong received" };
}

// Below the library, which would not send such frames.
async function rawFromClient(connection, wire) {
  connection.socket._socket.write(Buffer.from(wire, "hex"));
  return connection.told();
}

function* all() {
  yield* scenarios(bad);
  yield ["fragments_from_client", [], fragmentsFromClient];
  yield ["ping_from_client", [], pingFromClient];
  for (const [name, wire] of Object.entries(bad.client)) {
    yield [`client_sends_${name}`, [], (connection) => rawFromClient(connection, wire)];
  }
}

console.log(JSON.stringify(await play(WebSocket, base, all())));
