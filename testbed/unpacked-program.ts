import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { run } from "./bound-process.ts";
import { withLock } from "./cache-lock.ts";
import { cacheFolder } from "./image.ts";

/**
 * A program of Debian's, unpacked from its package into the per-user cache and not installed: nothing of it is started, and root is not needed.
 * @param name of the package, and of the program in its usr/bin
 * @returns the program's path
 * @throws Error when the package can't be had, or has no such program
 */
export async function unpackedProgram(name: string): Promise<string> {
  const folder = join(cacheFolder(), name);
  await mkdir(cacheFolder(), { recursive: true, mode: 0o700 });
  await withLock(`${folder}.lock`, async () => {
    if (await brings(folder, name)) return;
    const fresh = await mkdtemp(`${folder}.new-`);
    try {
      // With the user's own rights: apt's user may not be able to write here.
      await run("apt-get", ["-o", "APT::Sandbox::User=", "download", name], { cwd: fresh });
      const [deb] = (await readdir(fresh)).filter((file) => file.endsWith(".deb"));
      if (deb === undefined) throw new Error(`apt-get download brought no package ${name}`);
      await run("dpkg-deb", ["-x", join(fresh, deb), fresh]);
      if (!(await brings(fresh, name))) throw new Error(`the package ${name} has no usr/bin/${name}`);
      await rm(folder, { recursive: true, force: true });
      await rename(fresh, folder);
    } catch (error) {
      await rm(fresh, { recursive: true, force: true });
      throw error;
    }
  });
  return join(folder, "usr/bin", name);
}

const brings = async (folder: string, name: string): Promise<boolean> =>
  (await readdir(join(folder, "usr/bin")).catch((): string[] => [])).includes(name);
