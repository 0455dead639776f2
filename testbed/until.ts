import { watch } from "node:fs";

/**
 * Resolves when `holds` is true; looks again whenever the file or folder at `path` changes. The watch stands before the first look, so that no change is missed (the
 * iterator of `fs/promises` starts to watch only when it is first asked, which is too late).
 * @param signal ends the wait without an error
 */
export async function until(
  path: string,
  holds: () => boolean | Promise<boolean>,
  signal?: AbortSignal,
): Promise<void> {
  let wake: (error?: Error) => void = () => undefined;
  const watcher = watch(path, () => wake());
  watcher.on("error", (error) => wake(error));
  const onAbort = (): void => wake();
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      const changed = new Promise<void>((resolve, reject) => {
        wake = (error) => (error === undefined ? resolve() : reject(error));
      });
      changed.catch(() => undefined);
      if (signal?.aborted === true || (await holds())) return;
      await changed;
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    watcher.close();
  }
}
