import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { PlanRefused } from "../resource.ts";

/**
 * Size and digest of an archive on this machine. A plan reads no device, and this is none.
 * @throws PlanRefused when it can't be read
 */
export function readArchive(path: string): { readonly bytes: number; readonly sha256: string } {
  try {
    const descriptor = openSync(path, "r");
    try {
      const hash = createHash("sha256");
      const piece = Buffer.alloc(1024 * 1024);
      for (let read = readSync(descriptor, piece); read > 0; read = readSync(descriptor, piece))
        hash.update(piece.subarray(0, read));
      return { bytes: fstatSync(descriptor).size, sha256: hash.digest("hex") };
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw new PlanRefused(
      `the archive of the image can't be read: ${error instanceof Error ? error.message : String(error)}`,
      "make it with edgeseal image sign, or leave archive out where the node reaches the registry",
    );
  }
}
