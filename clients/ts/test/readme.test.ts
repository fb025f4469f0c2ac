/** The example in README.md does what the page says: two of them chat while they and the server are killed. */

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { BINARY, Holdfast } from "./holdfast.ts";

const options = { skip: BINARY === undefined && "HOLDFAST does not name the server's binary", timeout: 60_000 };

/** The package's folder: this file may be a source, or compiled below dist/. */
function packageFolder(): string {
  let folder = new URL(".", import.meta.url);
  while (!existsSync(new URL("README.md", folder).pathname)) folder = new URL("..", folder);
  return folder.pathname;
}

/** A program of its own that has the package installed. */
class Example {
  readonly #process: ChildProcess;
  #lines: string[] = [];
  #waiting: (() => void) | null = null;

  constructor(folder: string, args: string[]) {
    this.#process = spawn(process.execPath, [...process.execArgv, join(folder, "example.mjs"), ...args], {
      stdio: ["pipe", "pipe", "ignore"],
    });
    this.#process.stdout.setEncoding("utf8");
    let rest = "";
    this.#process.stdout.on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      this.#lines.push(...lines);
      this.#waiting?.();
    });
  }

  type(text: string): void {
    this.#process.stdin.write(`${text}\n`);
  }

  async next(): Promise<string> {
    while (this.#lines.length === 0) await new Promise<void>((resolve) => (this.#waiting = resolve));
    return this.#lines.shift() ?? "";
  }

  async kill(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#process.once("exit", () => resolve());
      this.#process.kill("SIGKILL");
    });
  }
}

test("the example chats, over a killed server and a killed client", options, async () => {
  const root = packageFolder();
  const holdfast = await Holdfast.start();
  const folder = holdfast.directory;
  const installed = join(folder, "node_modules/@holdfast/client");
  mkdirSync(join(installed, "dist"), { recursive: true });
  cpSync(join(root, "package.json"), join(installed, "package.json"));
  cpSync(join(root, "dist/holdfast-client.js"), join(installed, "dist/holdfast-client.js"));
  const [, example] = /```js\n([^]*?)```/.exec(readFileSync(join(root, "README.md"), "utf8")) ?? [];
  assert(example, "README.md has an example");
  writeFileSync(join(folder, "example.mjs"), example);

  const start = (user: string, other: string) =>
    new Example(folder, [holdfast.url, holdfast.token(user, "terminal"), `@${other}`, join(folder, `${user}.json`)]);
  const ana = start("1", "2");
  let ben = start("2", "1");
  try {
    const both = async (line: string) => assert.deepEqual([await ana.next(), await ben.next()], [line, line]);
    ana.type("hello");
    await both('1 {"text":"hello"}');
    ben.type("naïve “café” 👋");
    await both('2 {"text":"naïve “café” 👋"}');
    await holdfast.end("SIGKILL");
    ana.type("are you there?");
    await holdfast.start();
    await both('1 {"text":"are you there?"}');
    // Its cursor is written down before it is acknowledged; then nothing comes twice.
    const kept = () => JSON.parse(readFileSync(join(folder, "2.json"), "utf8")) as { cursor: string };
    while (kept().cursor !== "3") await new Promise((resolve) => setTimeout(resolve, 10));
    await ben.kill();
    ana.type("and now?");
    assert.equal(await ana.next(), '1 {"text":"and now?"}');
    ben = start("2", "1");
    assert.equal(await ben.next(), '1 {"text":"and now?"}');
  } finally {
    await Promise.all([ana.kill(), ben.kill()]);
    await holdfast.remove();
  }
});
