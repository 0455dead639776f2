import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

/** A header as cryptsetup and systemd-cryptenroll left it on a virtual Pi's disk: the first copy, 16 KiB. */
export const realHeader = (): Buffer =>
  gunzipSync(
    Buffer.from(readFileSync(new URL("virtual-pi.header.gz.base64", import.meta.url), "utf8"), "base64"),
  );

/** The same with its second copy, and 2 MiB in all: room for key slots. */
export function realHeaders(): Buffer {
  const first = realHeader();
  const second = Buffer.from(first);
  second.write("SKUL", 0, "latin1");
  second.writeBigUInt64BE(BigInt(first.length), 256);
  second.fill(0, 448, 512);
  createHash("sha256").update(second).digest().copy(second, 448);
  const slots = Buffer.alloc(2 * 1024 * 1024 - 2 * first.length);
  for (let at = 0; at < slots.length; at += 4096) slots.writeUInt32LE(at, at);
  return Buffer.concat([first, second, slots]);
}
