import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnBound, run, type BoundProcess } from "./bound-process.ts";
import { withLock } from "./cache-lock.ts";
import { cacheFolder } from "./image.ts";

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

  /** @throws Error when the package can't be had, or the registry does not start */
  static async start(): Promise<Registry> {
    const program = await registryProgram();
    const folder = await mkdtemp(join(tmpdir(), "edgeseal-registry-"));
    const configuration = join(folder, "config.json");
    await writeFile(
      configuration,
      JSON.stringify({
        version: 0.1,
        log: { level: "info", accesslog: { disabled: true } },
        storage: { filesystem: { rootdirectory: join(folder, "data") } },
        // The kernel's choice of port, so that two registries don't meet.
        http: { addr: "127.0.0.1:0" },
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

/** Unpacked from its package, never installed: that would start a service on every address of this machine. */
async function registryProgram(): Promise<string> {
  const folder = join(cacheFolder(), "docker-registry");
  const program = join(folder, "usr/bin/docker-registry");
  await mkdir(cacheFolder(), { recursive: true, mode: 0o700 });
  await withLock(`${folder}.lock`, async () => {
    const there = await readdir(join(folder, "usr/bin")).catch((): string[] => []);
    if (there.includes("docker-registry")) return;
    const fresh = await mkdtemp(`${folder}.new-`);
    try {
      // With the user's own rights: apt's user may not be able to write here.
      await run("apt-get", ["-o", "APT::Sandbox::User=", "download", "docker-registry"], { cwd: fresh });
      const [deb] = (await readdir(fresh)).filter((name) => name.endsWith(".deb"));
      if (deb === undefined) throw new Error("apt-get download brought no package docker-registry");
      await run("dpkg-deb", ["-x", join(fresh, deb), fresh]);
      await rm(folder, { recursive: true, force: true });
      await rename(fresh, folder);
    } catch (error) {
      await rm(fresh, { recursive: true, force: true });
      throw error;
    }
  });
  return program;
}
