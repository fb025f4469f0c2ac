// Builds the package: types, and all modules in one file that a browser can load as it is.
//
//   node build.mjs [--tsc PROGRAM] [--out DIRECTORY] [--tests] [--check FILE | --copy FILE]
//
// PROGRAM is TypeScript's compiler, else the one in node_modules; DIRECTORY is dist/ unless named. --tests compiles
// the tests too, beside the modules, into DIRECTORY/modules. --copy writes the one file to FILE as well, as
// web/holdfast-client.js is; --check fails when FILE says something else.
//
// The one file is the modules one after the other, each after those that it imports, without their imports and
// exports. So a name at the top of a module must be that module's alone; if it is not, the file does not parse.

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HERE = dirname(fileURLToPath(import.meta.url));
const ENTRY = "index";
const HEAD = `// The client library of Holdfast in one file, for browsers and Node.
// Made by clients/ts/build.mjs from clients/ts/src, which is the place to change it.
`;

const { values: options } = parseArgs({
  options: {
    tsc: { type: "string", default: join(HERE, "node_modules/.bin/tsc") },
    out: { type: "string", default: join(HERE, "dist") },
    tests: { type: "boolean", default: false },
    check: { type: "string" },
    copy: { type: "string" },
  },
});

const work = mkdtempSync(join(tmpdir(), "holdfast-client-"));
try {
  build();
} catch (error) {
  // The compiler has said what is wrong.
  if (error.status === undefined) throw error;
  process.exitCode = 1;
} finally {
  rmSync(work, { recursive: true, force: true });
}

function build() {
  execFileSync(options.tsc, ["-p", HERE, "--outDir", work, "--rootDir", HERE], { stdio: "inherit" });
  const out = resolve(options.out);
  mkdirSync(out, { recursive: true });
  const bundle = bundled(join(work, "src"));
  writeFileSync(join(out, "holdfast-client.js"), bundle);
  // The ending says that it is a module.
  writeFileSync(join(work, "bundle.mjs"), bundle);
  execFileSync(process.execPath, ["--check", join(work, "bundle.mjs")], { stdio: "inherit" });
  for (const name of readdirSync(join(work, "src")).filter((name) => name.endsWith(".d.ts"))) {
    // As written, they import each other as sources.
    const types = readFileSync(join(work, "src", name), "utf8").replaceAll(/(from ")(\.\/[a-z]+)\.ts"/g, '$1$2.js"');
    writeFileSync(join(out, name), types);
  }
  if (options.tests) cpSync(work, join(out, "modules"), { recursive: true });
  if (options.copy) writeFileSync(options.copy, bundle);
  if (options.check && readFileSync(options.check, "utf8") !== bundle) {
    console.error(`${options.check} is not what clients/ts/src says: node clients/ts/build.mjs --copy ${options.check}`);
    process.exitCode = 1;
  }
}

/** All modules in one text, the entry last, with the entry's exports. */
function bundled(folder) {
  const texts = [];
  const seen = new Set();
  const exported = [];
  const take = (name) => {
    if (seen.has(name)) return;
    seen.add(name);
    const source = readFileSync(join(folder, `${name}.js`), "utf8");
    for (const [, other] of source.matchAll(/^(?:import|export) .*?from "\.\/([a-z]+)\.js";$/gms)) take(other);
    if (name === ENTRY) {
      for (const [, names] of source.matchAll(/^export \{([^}]*)\} from/gm)) exported.push(...names.split(",").map((one) => one.trim()));
      return;
    }
    const text = source
      .replaceAll(/^import [^;]*;\n/gm, "")
      .replaceAll(/^export \{\};\n/gm, "")
      .replaceAll(/^export /gm, "");
    if (/^(import|export) /m.test(text)) throw new Error(`${name}.ts imports or exports in a way that this script does not know`);
    if (text.trim()) texts.push(`// ---- ${name}.ts\n\n${text.trim()}\n`);
  };
  take(ENTRY);
  return [HEAD, ...texts, `export { ${exported.sort().join(", ")} };\n`].join("\n");
}
