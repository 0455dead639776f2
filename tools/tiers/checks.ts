import { spawn } from "node:child_process";
import { once } from "node:events";
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

export const CHECKS: readonly Check[] = [
  nodeCheck("format", "prettier/bin/prettier.cjs", "--check", "--log-level", "warn", "."),
  nodeCheck("lint", "eslint/bin/eslint.js", "."),
  nodeCheck("types", "typescript/bin/tsc", "--noEmit"),
  {
    name: "shell",
    command: [
      "shellcheck",
      "edgeseal",
      ".ci/run",
      "tools/install-debian-packages",
      "tools/language-host/pulumi-language-nodejs",
      "cli/node-add/first-contact",
      ...[
        "measure",
        "initramfs-hook",
        "initramfs-panic",
        "initramfs-script",
        "initramfs-record",
        "initramfs-rebuild",
        "initramfs-warn",
        "apt-hook",
        "keep-boot",
        "own-tpm",
        "challenge-tpm",
        "unlock-volumes",
        "cap-pcr15",
        "form-volume",
      ].map((name) => `provider/resources/on-device/${name}`),
    ],
  },
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
