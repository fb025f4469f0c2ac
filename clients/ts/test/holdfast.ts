/** The real server, for tests that $HOLDFAST gives its binary to. */

import assert from "node:assert/strict";
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const BINARY = process.env["HOLDFAST"];

export class Holdfast {
  readonly directory = mkdtempSync(join(tmpdir(), "holdfast-client-test-"));
  address = "127.0.0.1:0";
  readonly #settings: { readonly [name: string]: string };
  #process: ChildProcess | null = null;

  private constructor(settings: { readonly [name: string]: string }) {
    this.#settings = settings;
  }

  /** With these environment variables: HOLDFAST_LIMITS__SEND_BURST and others. */
  static async start(settings: { readonly [name: string]: string } = {}): Promise<Holdfast> {
    const holdfast = new Holdfast(settings);
    process.on("exit", () => holdfast.#process?.kill("SIGKILL"));
    await holdfast.start();
    return holdfast;
  }

  get url(): string {
    return `ws://${this.address}/ws`;
  }

  /** With the same data, at the same address. Resolves when it listens. */
  async start(): Promise<void> {
    assert(BINARY, "HOLDFAST names the server's binary");
    const server = spawn(BINARY, ["serve", "--listen", this.address, "--data", join(this.directory, "data")], {
      stdio: ["ignore", "pipe", "ignore"],
      env: { ...process.env, ...this.#settings },
    });
    this.#process = server;
    server.stdout.setEncoding("utf8");
    this.address = await new Promise<string>((resolve, reject) => {
      let said = "";
      server.stdout.on("data", (text) => {
        said += text;
        const address = /http:\/\/([0-9.:]+)\//.exec(said)?.[1];
        if (address !== undefined) resolve(address);
      });
      server.once("exit", (code) => reject(new Error(`the server ended before it listened, with ${code}`)));
    });
  }

  /** Ends it; gives the exit code. */
  async end(signal: "SIGTERM" | "SIGKILL"): Promise<number | null> {
    const server = this.#process;
    this.#process = null;
    assert(server, "it runs");
    return new Promise((resolve) => {
      server.once("exit", resolve);
      server.kill(signal);
    });
  }

  async remove(): Promise<void> {
    if (this.#process) await this.end("SIGKILL");
    rmSync(this.directory, { recursive: true, force: true });
  }

  token(user: string, device: string): string {
    const args = ["token", "--user", user, "--device", device, "--data", join(this.directory, "data")];
    return execFileSync(BINARY ?? "", args, { encoding: "utf8" }).trim();
  }
}
