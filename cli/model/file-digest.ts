import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { UserError } from "../errors.ts";

/** What a statement says of a file's bytes. */
export interface FileDigest {
  /** 64 lower-case hex digits. */
  readonly sha256: string;
  readonly bytes: number;
}

/**
 * Digest and size of the files at some paths, one after the other as if they were one.
 * @param onChunk Gets what was read, in its order.
 * @throws UserError when one can't be read
 */
export async function digestOfFiles(
  paths: readonly string[],
  {
    signal,
    onChunk,
  }: {
    readonly signal?: AbortSignal | undefined;
    readonly onChunk?: (chunk: Buffer) => Promise<unknown>;
  } = {},
): Promise<FileDigest> {
  const hash = createHash("sha256");
  let bytes = 0;
  for (const path of paths) {
    try {
      const stream = createReadStream(path, { highWaterMark: 1024 * 1024 });
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        signal?.throwIfAborted();
        hash.update(chunk);
        bytes += chunk.length;
        await onChunk?.(chunk);
      }
    } catch (error) {
      signal?.throwIfAborted();
      const { code } = error as NodeJS.ErrnoException;
      if (code === undefined) throw error;
      throw new UserError(`${path} can't be read: ${code}`, { cause: error });
    }
  }
  return { sha256: hash.digest("hex"), bytes };
}
