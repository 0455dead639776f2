import { execFile } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";

const execFileAsync = promisify(execFile);

/** A program that does not answer by then counts as not working. */
const ANSWER_MS = 10_000;

/** Where a command is on PATH, as a shell would find it; `undefined` when it is not. */
export function findOnPath(command: string): string | undefined {
  return (process.env["PATH"] ?? "")
    .split(delimiter)
    .map((directory) => join(directory, command))
    .find(isExecutable);
}

/** The first line that a program prints, `undefined` when it is not there or ends with an error. */
export async function firstLine(file: string, ...args: string[]): Promise<string | undefined> {
  try {
    const { stdout } = await execFileAsync(file, args, {
      timeout: ANSWER_MS,
      env: { ...process.env, LC_ALL: "C.UTF-8", PULUMI_SKIP_UPDATE_CHECK: "true" },
    });
    return stdout.split("\n", 1)[0]?.trim();
  } catch {
    return undefined;
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
