import { execFile } from "node:child_process";
import { join } from "node:path";

const program = join(import.meta.dirname, "../../cli/main.ts");

/** What a run of the command line gave. */
export interface Ran {
  readonly code: number;
  readonly stdout: string;
  /** Standard output and error. */
  readonly text: string;
}

/** Runs the command line in a folder. */
export const edgesealIn = (folder: string, args: readonly string[]): Promise<Ran> =>
  new Promise((resolve) => {
    execFile(
      process.execPath,
      ["--disable-warning=ExperimentalWarning", program, ...args],
      { cwd: folder },
      (error, stdout, stderr) => {
        const code = typeof error?.code === "number" ? error.code : error === null ? 0 : -1;
        resolve({ code, stdout, text: `${stdout}${stderr}` });
      },
    );
  });
