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
