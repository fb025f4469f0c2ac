/** Just what the tests use of Node, so that the package needs nothing but a compiler. */

declare module "node:test" {
  export function test(name: string, run: () => void | Promise<void>): void;
  export function test(name: string, options: { skip?: boolean | string; timeout?: number }, run: () => void | Promise<void>): void;
}

declare module "node:assert/strict" {
  interface Assert {
    (value: unknown, message?: string): asserts value;
    equal(actual: unknown, expected: unknown, message?: string): void;
    deepEqual(actual: unknown, expected: unknown, message?: string): void;
    throws(run: () => unknown, expected?: RegExp | object): void;
    rejects(promise: Promise<unknown>, expected?: RegExp | object): Promise<void>;
    fail(message: string): never;
  }
  const assert: Assert;
  export default assert;
}

declare module "node:child_process" {
  export interface Readable extends AsyncIterable<Uint8Array> {
    setEncoding(encoding: "utf8"): void;
    on(event: "data", listener: (text: string) => void): void;
    resume(): void;
  }
  export interface ChildProcess {
    readonly stdin: { write(text: string): void };
    readonly stdout: Readable;
    readonly exitCode: number | null;
    kill(signal: string): boolean;
    once(event: "exit", listener: (code: number | null) => void): void;
  }
  interface SpawnOptions {
    readonly stdio: readonly string[];
    readonly env?: { readonly [name: string]: string | undefined };
  }
  export function spawn(program: string, args: readonly string[], options: SpawnOptions): ChildProcess;
  export function execFileSync(program: string, args: readonly string[], options: { encoding: "utf8" }): string;
}

declare module "node:fs" {
  export function cpSync(from: string, to: string, options?: { recursive: boolean }): void;
  export function existsSync(path: string): boolean;
  export function mkdirSync(path: string, options: { recursive: boolean }): void;
  export function mkdtempSync(prefix: string): string;
  export function readFileSync(path: string, encoding: "utf8"): string;
  export function renameSync(from: string, to: string): void;
  export function rmSync(path: string, options: { recursive: boolean; force: boolean }): void;
  export function writeFileSync(path: string, text: string): void;
}

declare module "node:os" {
  export function tmpdir(): string;
}

declare module "node:path" {
  export function join(...parts: string[]): string;
}

declare const process: {
  readonly env: { readonly [name: string]: string | undefined };
  readonly execPath: string;
  readonly execArgv: readonly string[];
  on(event: "exit", listener: () => void): void;
};
