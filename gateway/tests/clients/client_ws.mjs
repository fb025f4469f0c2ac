// npm `ws`: see README.md. It says who it is as a browser must, with a second subprotocol.

import { createInterface } from "node:readline";
import WebSocket from "ws";

const [url, token] = process.argv.slice(2);
const socket = new WebSocket(url, ["holdfast.v1.json", `bearer.${token}`]);

socket.on("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
socket.on("message", (data, isBinary) => {
  if (isBinary) throw new Error("a binary message on a JSON session");
  console.log(data.toString());
});
socket.on("close", (code) => console.log(JSON.stringify({ closed: code })));
socket.on("open", () => {
  if (socket.protocol !== "holdfast.v1.json") throw new Error(`subprotocol ${socket.protocol}`);
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => socket.send(line));
  lines.on("close", () => socket.close(1000));
});
