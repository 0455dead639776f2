import { Interrupted } from "./ask.ts";

/**
 * Does something that Ctrl-C may end: the signal is aborted by the first one, and what is under way then ends itself, and puts back what it has to.
 */
export async function withInterruption<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interruption = new AbortController();
  const onInterrupt = (): void => interruption.abort();
  process.once("SIGINT", onInterrupt);
  try {
    return await work(interruption.signal);
  } finally {
    process.off("SIGINT", onInterrupt);
  }
}

/**
 * The same for work that leaves nothing half done when it is ended.
 * @throws Interrupted
 */
export async function untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  return withInterruption(async (signal) => {
    try {
      return await work(signal);
    } catch (error) {
      // Whatever was under way, it is the person who ended it.
      if (signal.aborted) throw new Interrupted("interrupted");
      throw error;
    }
  });
}
