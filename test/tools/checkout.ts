import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** What the entry script takes for granted: Debian's essential packages. */
const ESSENTIAL = (
  "awk bash cat chmod chown cmp cp cut dirname env find flock grep id ln mkdir mktemp mv paste readlink realpath rm sed sh sha256sum " +
  "sleep sort stat tail touch tr"
).split(" ");

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * A checkout with the real entry script on a machine of the test's making: on PATH are the essential commands and those
 * that the test puts there. The CLI only prints its arguments and PATH.
 */
export class Checkout {
  readonly folder = mkdtempSync(join(tmpdir(), "edgeseal-checkout-"));
  readonly cache = join(this.folder, "cache");
  readonly #bin = join(this.folder, "bin");

  constructor() {
    mkdirSync(this.#bin);
    mkdirSync(join(this.folder, "cli"));
    copyFileSync(join(root, "edgeseal"), join(this.folder, "edgeseal"));
    cpSync(join(root, "tools"), join(this.folder, "tools"), { recursive: true });
    this.write(
      "cli/main.ts",
      `console.log(JSON.stringify({ args: process.argv.slice(2), path: process.env.PATH }));`,
    );
    this.write("package.json", `{"name":"checkout","type":"module"}`);
    this.write("package-lock.json", `{"lockfileVersion":3}`);
    this.needPackages([]);
    for (const command of ESSENTIAL) {
      const path = execFileSync("sh", ["-c", `command -v ${command}`], { encoding: "utf8" }).trim();
      symlinkSync(path, join(this.#bin, command));
    }
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  has(name: string): boolean {
    return existsSync(this.path(name));
  }

  read(name: string): string {
    return readFileSync(this.path(name), "utf8");
  }

  write(name: string, text: string): void {
    mkdirSync(dirname(this.path(name)), { recursive: true });
    writeFileSync(this.path(name), text);
  }

  /** Puts a command on PATH: a shell script with this body. */
  command(name: string, body: string): void {
    const path = join(this.#bin, name);
    rmSync(path, { force: true });
    writeFileSync(path, `#!/bin/sh\n${body}\n`);
    chmodSync(path, 0o755);
  }

  /** The Node that runs the test, as the machine's own. */
  haveNode(): void {
    symlinkSync(process.execPath, join(this.#bin, "node"));
  }

  /** npm that notes each call and makes node_modules with the lock file's text in it; before that, it runs `first`. */
  haveNpm(first = ""): void {
    this.command(
      "npm",
      `echo "$*" >>"${this.path("npm-calls")}"
       ${first}
       mkdir "$3/node_modules" && cp "$3/package-lock.json" "$3/node_modules/installed"`,
    );
  }

  /** The list of Debian packages, as lines `GROUP PACKAGE PROOF WHY`. */
  needPackages(lines: readonly string[]): void {
    this.write("tools/debian-packages.txt", lines.map((line) => `${line}\n`).join(""));
  }

  start(
    args: readonly string[],
    env: Readonly<Record<string, string>> = {},
    options: { readonly stdin?: "ignore" | "pipe"; readonly ownGroup?: boolean } = {},
  ): ChildProcess {
    return spawn(join(this.folder, "edgeseal"), args, {
      cwd: tmpdir(),
      env: { PATH: this.#bin, HOME: this.folder, EDGESEAL_CACHE: this.cache, ...env },
      stdio: [options.stdin ?? "ignore", "pipe", "pipe"],
      detached: options.ownGroup ?? false,
    });
  }

  async run(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Outcome> {
    return await outcome(this.start(args, env));
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true });
  }
}

export async function outcome(child: ChildProcess): Promise<Outcome> {
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, stdout, stderr };
}
