import { join } from "node:path";
import { runWithForeignPrograms } from "./foreign-programs.ts";
import type { BuildOptions } from "./image/build.ts";

/** Builds the image of another architecture than this machine's: the same recipe, in a process of its own, for which that architecture's programs run. */
export async function buildForeignImage(folder: string, options: BuildOptions): Promise<void> {
  const { profile, signal, onProgress } = options;
  await runWithForeignPrograms(
    profile.arch,
    [
      ...[process.execPath, "--disable-warning=ExperimentalWarning"],
      ...[join(import.meta.dirname, "build-foreign-image.ts"), folder, profile.arch],
    ] as [string, ...string[]],
    { signal, onLine: onProgress },
  );
}
