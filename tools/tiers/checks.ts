import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, globSync, openSync, readSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import type { Tally } from "./tally.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** One command that has to end with 0. */
export interface Check {
  readonly name: string;
  readonly command: readonly [string, ...string[]];
}

/** A package's program under the Node that runs this, whatever PATH holds. */
function nodeCheck(name: string, path: string, ...args: string[]): Check {
  return { name, command: [process.execPath, `node_modules/${path}`, ...args] };
}

/** What is in a checkout without being of it. */
const foreign = new Set([".edgeseal", ".git", "node_modules"]);

/**
 * The files that say themselves that they are for a shell: by how they start, or, where others take them in, by what they tell shellcheck. Git is not asked: a checkout
 * without it, or of another user, is tested as well.
 */
export function shellScripts(): readonly string[] {
  return globSync(["**", "**/.*", "**/.*/**"], {
    cwd: root,
    withFileTypes: true,
    exclude: ({ name }) => foreign.has(name),
  })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => relative(root, join(parentPath, name)))
    .filter((path) => /^(#!.*\b(ba|da)?sh\n|# shellcheck shell=)/.test(beginningOf(join(root, path))))
    .sort();
}

function beginningOf(path: string): string {
  const bytes = Buffer.alloc(64);
  const file = openSync(path, "r");
  const length = readSync(file, bytes);
  closeSync(file);
  return bytes.toString("utf8", 0, length);
}

export const CHECKS: readonly Check[] = [
  nodeCheck("format", "prettier/bin/prettier.cjs", "--check", "--log-level", "warn", "."),
  nodeCheck("lint", "eslint/bin/eslint.js", "."),
  nodeCheck("types", "typescript/bin/tsc", "--noEmit"),
  { name: "shell", command: ["shellcheck", ...shellScripts()] },
];

/** Runs a check with its output on this terminal. A program that is not installed has failed, it was not skipped. */
export async function runCheck({ name, command: [file, ...args] }: Check): Promise<Tally> {
  const began = performance.now();
  const child = spawn(file, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
  let passed: boolean;
  try {
    const [code] = (await once(child, "close")) as [number | null];
    passed = code === 0;
  } catch (error) {
    console.error(`${file}: ${error instanceof Error ? error.message : String(error)}`);
    passed = false;
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  console.log(` ${passed ? "✓" : "✗"} ${name} (${seconds} s)`);
  return { passed: passed ? 1 : 0, failed: passed ? [] : [`checks: ${name}`], skipped: 0 };
}
