// socketio_client.mjs URL COUNT: socket.io clients with all defaults (polling first, then an upgrade), which keep cookies as a browser
// does. Each says something every 100 ms and waits for the answer. A line on its input has it print what happened so far, as JSON.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const [url, count] = process.argv.slice(2);
const clients = Array.from({ length: Number(count) }, () => ({ said: 0, answered: 0, server: null, connects: 0, errors: [] }));

for (const client of clients) {
  const socket = io(url, { withCredentials: true, forceNew: true });
  socket.on("connect", () => { client.connects += 1; });
  socket.on("connect_error", (error) => client.errors.push(String(error.description?.message ?? error.message)));
  setInterval(async () => {
    if (!socket.connected) return;
    client.said += 1;
    try {
      const answer = await socket.timeout(5000).emitWithAck("say", client.said);
      client.answered += 1;
      client.server = answer.split(" ")[0];
    } catch {
      // The connection ended meanwhile: the library does not repeat what was not acknowledged.
    }
  }, 100);
  client.socket = socket;
}

createInterface({ input: process.stdin }).on("line", () => {
  const now = (socket) => ({ connected: socket.connected, transport: socket.io.engine?.transport?.name });
  console.log(JSON.stringify(clients.map(({ socket, ...client }) => ({ ...client, ...now(socket) }))));
}).on("close", () => process.exit(0));
console.log("running");
