// What every client in JavaScript plays, in Node and in the browser, through the API that both have.
// The results have the same form as those of peers/websockets_client.py.

const TIMEOUT = 10_000;

// A WebSocket with its messages as promises.
class Connection {
  constructor(socket) {
    this.socket = socket;
    this.messages = [];
    this.count = 0;
    this.waiting = [];
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", ({ data }) => {
      this.count += 1;
      const next = this.waiting.shift();
      if (next) next(data);
      else this.messages.push(data);
    });
    this.opened = new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve);
      socket.addEventListener("error", () => reject(new Error("the connection failed")));
    });
    this.closed = new Promise((resolve) => {
      socket.addEventListener("close", ({ code, reason, wasClean }) => resolve({ code, reason, wasClean }));
    });
  }

  receive() {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  async told() {
    const { code, reason, wasClean } = await this.closed;
    if (!wasClean) throw new Error(`the connection ended without a Close (${code})`);
    return { code, reason, messages: this.count };
  }
}

function equal(a, b) {
  if (typeof a === "string" || typeof b === "string") return a === b;
  const [left, right] = [new Uint8Array(a), new Uint8Array(b)];
  return left.length === right.length && left.every((byte, i) => byte === right[i]);
}

const size = (data) => (typeof data === "string" ? [...data].length : data.byteLength);

async function echoed(connection, message) {
  connection.socket.send(message);
  const answer = await connection.receive();
  return { equal: equal(answer, message), size: size(answer) };
}

async function asked(connection, command) {
  connection.socket.send(command);
  return { answer: await connection.receive() };
}

async function many(connection) {
  const messages = [];
  for (let n = 0; n < 3000; n += 15) messages.push(n % 2 ? "ä".repeat(n) : new Uint8Array(n).fill(98));
  for (const message of messages) connection.socket.send(message);
  let same = true;
  for (const message of messages) same = equal(await connection.receive(), message) && same;
  return { equal: same, size: connection.count };
}

async function subprotocol(connection) {
  return { agreed: connection.socket.protocol, ...(await asked(connection, "cmd:subprotocol")) };
}

async function clientCloses(connection, code) {
  connection.socket.close(code, "done");
  return connection.told();
}

async function serverSays(connection, command) {
  connection.socket.send(command);
  return connection.told();
}

const largeJson = Array.from({ length: 30_000 }, (_, n) => ({ id: n, text: `größe ${(n * 7919) % 997}` }));

export function* scenarios(bad) {
  const bytes = (length) => new Uint8Array(length).map((_, i) => i);
  yield ["text", [], (c) => echoed(c, "grüße, 世界 🌍")];
  yield ["empty_text", [], (c) => echoed(c, "")];
  yield ["binary", [], (c) => echoed(c, bytes(256))];
  yield ["large_text", [], (c) => echoed(c, "ä€😀".repeat(Math.floor((1 << 20) / 9) + 1))];
  yield ["large_json", [], (c) => echoed(c, JSON.stringify(largeJson).padEnd(1 << 20))];
  yield ["large_binary", [], (c) => echoed(c, bytes(4 << 20))];
  yield ["many", [], many];
  yield ["fragments_from_server", [], (c) => asked(c, "cmd:fragments")];
  yield ["ping_from_server", [], (c) => asked(c, "cmd:ping")];
  yield ["subprotocol", ["chat.v2", "chat.v1"], subprotocol];
  yield ["no_subprotocol", [], subprotocol];
  for (const code of [1000, 4001]) {
    yield [`client_closes_${code}`, [], (c) => clientCloses(c, code)];
    yield [`server_closes_${code}`, [], (c) => serverSays(c, `cmd:close:${code}:go away`)];
  }
  for (const [name, wire] of Object.entries(bad.server)) {
    yield [`server_sends_${name}`, [], (c) => serverSays(c, `cmd:raw:${wire}`)];
  }
}

function within(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing happened for ${TIMEOUT} ms`)), TIMEOUT);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Plays each scenario on a connection of its own; one that fails has an "error" for its result.
export async function play(WebSocket, base, all) {
  const results = {};
  for (const [name, offered, act] of all) {
    const connection = new Connection(new WebSocket(`${base}/${name}`, offered));
    try {
      await within(connection.opened);
      const { extensions } = connection.socket;
      results[name] = { ...(await within(act(connection))), extensions };
    } catch (error) {
      results[name] = { error: String(error) };
    }
    connection.socket.close();
  }
  return results;
}
