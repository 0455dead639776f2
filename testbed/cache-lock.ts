import { once } from "node:events";
import { spawnBound } from "./bound-process.ts";

/**
 * Runs `action` while holding an exclusive lock on `path` (flock(2)), which is created if it is missing.
 * Another holder, in any process, is waited for. The kernel frees the lock when its holder dies, so a killed
 * process leaves nothing behind that someone would have to clean up.
 * @param onWait called once if somebody else holds the lock
 */
export async function withLock<T>(
  path: string,
  action: () => Promise<T>,
  options: { readonly signal?: AbortSignal | undefined; readonly onWait?: () => void } = {},
): Promise<T> {
  options.signal?.throwIfAborted();
  // Node has no flock: util-linux's holds it for as long as the `cat` under it lives. What we write comes back
  // only once `cat` runs, which is when the lock is ours.
  const holder = await spawnBound("flock", ["--exclusive", "--no-fork", path, "cat"], {
    stdio: ["pipe", "pipe", "pipe"],
  });
  const abort = (): void => void holder.kill();
  options.signal?.addEventListener("abort", abort, { once: true });
  try {
    const waiting = setTimeout(() => options.onWait?.(), 1000);
    holder.child.stdin?.write("mine?");
    if (!holder.child.stdout) throw new Error("flock has no standard output");
    const mine = await Promise.race([
      once(holder.child.stdout, "data").then(() => true),
      holder.ended.then(() => false),
    ]);
    clearTimeout(waiting);
    options.signal?.throwIfAborted();
    if (!mine) throw new Error(`cannot lock ${path}: ${holder.stderr().trim()}`);
    return await action();
  } finally {
    options.signal?.removeEventListener("abort", abort);
    await holder.kill();
  }
}
