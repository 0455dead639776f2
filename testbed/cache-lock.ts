import { once } from "node:events";
import { dirname } from "node:path";
import { UserError } from "../cli/errors.ts";
import { spawnBound } from "./bound-process.ts";

/**
 * Runs `action` while holding an exclusive lock on `path` (flock(2)), which is created if it is missing.
 * Another holder, in any process, is waited for. The kernel frees the lock when its holder dies, so a killed
 * process leaves nothing behind that someone would have to clean up.
 * @param onWait called once if somebody else holds the lock
 * @throws UserError with what flock said, when there can be no lock at `path`
 */
export async function withLock<T>(
  path: string,
  action: () => Promise<T>,
  options: { readonly signal?: AbortSignal | undefined; readonly onWait?: () => void } = {},
): Promise<T> {
  options.signal?.throwIfAborted();
  // Node has no flock: util-linux's holds it for as long as the program under it lives, which says so once it runs: that
  // is when the lock is ours. Nothing is written to it, so that one which ends at once is an end and no broken pipe.
  const holder = await spawnBound(
    "flock",
    ["--exclusive", "--no-fork", path, "sh", "-c", "echo mine; exec cat"],
    { stdio: ["pipe", "pipe", "pipe"] },
  );
  const abort = (): void => void holder.kill();
  options.signal?.addEventListener("abort", abort, { once: true });
  try {
    const waiting = setTimeout(() => options.onWait?.(), 1000);
    if (!holder.child.stdout) throw new Error("flock has no standard output");
    const mine = await Promise.race([
      once(holder.child.stdout, "data").then(() => true),
      holder.ended.then(() => false),
    ]);
    clearTimeout(waiting);
    options.signal?.throwIfAborted();
    if (!mine) {
      throw new UserError(`cannot lock ${path}: ${holder.stderr().trim()}`, {
        hint: `${dirname(path)} has to be there and yours to write to; ./edgeseal takes root with sudo where that is needed`,
      });
    }
    return await action();
  } finally {
    options.signal?.removeEventListener("abort", abort);
    await holder.kill();
  }
}
