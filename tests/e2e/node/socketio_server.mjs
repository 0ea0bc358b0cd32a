// A socket.io server with all defaults. It says where it listens, and answers each message with its port. It ends with its input.
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http);
http.listen(Number(process.argv[2] ?? 0), "127.0.0.1", () => console.log(`listening 127.0.0.1:${http.address().port}`));
io.on("connection", (socket) => socket.on("say", (text, answer) => answer(`${http.address().port} ${text}`)));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
