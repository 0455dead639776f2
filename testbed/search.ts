import { createReadStream } from "node:fs";

/** Which of these byte strings are somewhere in a file of any size. */
export async function foundInFile(path: string, wanted: readonly Buffer[]): Promise<readonly boolean[]> {
  const overlap = Math.max(...wanted.map(({ length }) => length)) - 1;
  const found = wanted.map(() => false);
  let rest = Buffer.alloc(0);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 22 })) {
    const text = Buffer.concat([rest, chunk as Buffer]);
    for (const [index, bytes] of wanted.entries()) found[index] ||= text.includes(bytes);
    rest = text.subarray(Math.max(0, text.length - overlap));
  }
  return found;
}
