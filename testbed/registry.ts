import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnBound, type BoundProcess } from "./bound-process.ts";
import { unpackedProgram } from "./unpacked-program.ts";

export interface RegistryLogin {
  readonly username: string;
  readonly password: string;
}

/** Debian's docker-registry, on this machine's loopback, with nothing in it. */
export class Registry {
  readonly #process: BoundProcess;
  readonly #folder: string;
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  readonly port: number;

  private constructor(process: BoundProcess, folder: string, port: number) {
    this.#process = process;
    this.#folder = folder;
    this.port = port;
    this.host = `127.0.0.1:${port}`;
  }

  /**
   * @param login The only one that it lets in. Default: it lets everybody in.
   * @throws Error when the package can't be had, or the registry does not start
   */
  static async start(login?: RegistryLogin): Promise<Registry> {
    // Never installed: that would start a service on every address of this machine.
    const program = await unpackedProgram("docker-registry");
    const folder = await mkdtemp(join(tmpdir(), "edgeseal-registry-"));
    const configuration = join(folder, "config.json");
    const passwords = join(folder, "htpasswd");
    if (login !== undefined) await writeFile(passwords, `${login.username}:${bcrypt(login.password)}\n`);
    await writeFile(
      configuration,
      JSON.stringify({
        version: 0.1,
        log: { level: "info", accesslog: { disabled: true } },
        storage: { filesystem: { rootdirectory: join(folder, "data") } },
        // The kernel's choice of port, so that two registries don't meet.
        http: { addr: "127.0.0.1:0" },
        ...(login === undefined ? {} : { auth: { htpasswd: { realm: "testbed", path: passwords } } }),
      }),
    );
    const process = await spawnBound(program, ["serve", configuration]);
    try {
      return new Registry(process, folder, await listeningPort(process));
    } catch (error) {
      await process.kill();
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  async stop(): Promise<void> {
    await this.#process.kill();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** The one form that docker-registry takes. Perl's crypt is the C library's, which knows it. */
function bcrypt(password: string): string {
  const salt = `$2y$05$${randomBytes(11).toString("hex")}`;
  return execFileSync("perl", ["-e", "print crypt(join('', <STDIN>), $ARGV[0])", salt], {
    input: password,
    encoding: "utf8",
  });
}

/** The registry says in its log where it listens. */
async function listeningPort(process: BoundProcess): Promise<number> {
  const said = new Promise<number>((resolve) => {
    process.child.stderr?.on("data", () => {
      const port = /listening on 127\.0\.0\.1:(\d+)/.exec(process.stderr())?.[1];
      if (port !== undefined) resolve(Number(port));
    });
  });
  const ended = process.ended.then(() => {
    throw new Error(`docker-registry ended: ${process.stderr().trim()}`);
  });
  return Promise.race([said, ended]);
}
