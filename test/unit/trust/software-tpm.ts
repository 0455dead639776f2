import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, type TestContext } from "vitest";
import { spawnBound, type BoundProcess } from "../../../testbed/bound-process.ts";
import { until } from "../../../testbed/until.ts";
import { findOnPath } from "../../../tools/doctor/program.ts";

const relay = fileURLToPath(new URL("./relay.ts", import.meta.url));

/** Why a TPM can't be asked here, if so: `./edgeseal test` installs what is missing, `./edgeseal test unit` alone does not. */
const noTpm: string | undefined = ["swtpm", "tpm2_activatecredential"].some(
  (each) => findOnPath(each) === undefined,
)
  ? "needs swtpm and tpm2-tools (tools/debian-packages.txt), which are not installed"
  : undefined;

/** A TPM 2.0 in software, and tpm2-tools to speak to it. Its socket is a file: no port is taken. */
export class SoftwareTpm {
  readonly folder: string;
  readonly #process: BoundProcess;

  private constructor(folder: string, process: BoundProcess) {
    this.folder = folder;
    this.#process = process;
  }

  static async start(): Promise<SoftwareTpm> {
    const folder = await mkdtemp(join(tmpdir(), "edgeseal-tpm-"));
    const pidFile = join(folder, "pid");
    const swtpm = await spawnBound("swtpm", [
      "socket",
      "--tpm2",
      ...["--tpmstate", `dir=${folder}`],
      ...["--server", `type=unixio,path=${join(folder, "socket")}`],
      // Where tss2-tcti-swtpm looks for it.
      ...["--ctrl", `type=unixio,path=${join(folder, "socket.ctrl")}`],
      ...["--flags", "not-need-init,startup-clear"],
      // Not to a pipe, which nobody reads while a test waits for a tool synchronously: it says a word for each connection.
      ...["--log", `file=${join(folder, "log")}`],
      ...["--pid", `file=${pidFile}`],
    ]);
    const ended = new AbortController();
    void swtpm.ended.then(() => ended.abort());
    await until(folder, () => existsSync(pidFile), ended.signal);
    if (ended.signal.aborted) {
      const log = await readFile(join(folder, "log"), "utf8").catch(() => "");
      throw new Error(`swtpm did not start: ${swtpm.stderr()}${log}`);
    }
    return new SoftwareTpm(folder, swtpm);
  }

  /** Runs one of tpm2-tools in the TPM's folder; what it loaded is flushed. @throws with its standard error. */
  async run(tool: string, ...args: readonly string[]): Promise<string> {
    const options = {
      cwd: this.folder,
      env: {
        ...process.env,
        TPM2TOOLS_TCTI: `cmd:exec '${process.execPath}' '${relay}' '${join(this.folder, "socket")}'`,
      },
    };
    const { stdout } = await promisify(execFile)(tool, args, options);
    await promisify(execFile)("tpm2_flushcontext", ["-t"], options);
    return stdout;
  }

  write = (name: string, content: string | Uint8Array): Promise<void> =>
    writeFile(join(this.folder, name), content);

  read = (name: string): Promise<Buffer> => readFile(join(this.folder, name));

  async stop(): Promise<void> {
    await this.#process.kill();
    await rm(this.folder, { recursive: true });
  }
}

/** A fresh TPM for the tests of a `describe`. A test asks for it with its context, by which it is skipped, with the reason, where there can be none. */
export function softwareTpm(): (context: TestContext) => SoftwareTpm {
  let tpm: SoftwareTpm | undefined;
  if (noTpm === undefined) {
    beforeAll(async () => {
      tpm = await SoftwareTpm.start();
    });
    afterAll(() => tpm?.stop());
  }
  return (context) => tpm ?? context.skip(noTpm);
}
