import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { spawnBound, type BoundProcess } from "./bound-process.ts";
import type { Profile } from "./profile.ts";
import { until } from "./until.ts";

/**
 * Powers on the TPM 2.0 whose state is in `stateFolder`: that folder *is* the chip. The emulator ends by itself when
 * QEMU closes its connection, as a chip loses power with its board.
 * @param stateFolder absolute: swtpm fails late and vaguely (CMD_INIT 0x9) on a relative one. An empty folder is a
 * new chip: swtpm makes its seeds, and with them another endorsement key.
 * @param channel what is spoken over the socket. With `control` QEMU starts the TPM up; with `commands` it is started up already, as by a firmware.
 * @returns once it accepts a connection on `socket`
 */
export async function powerOnTpm(
  stateFolder: string,
  socket: string,
  channel: Profile["tpmChannel"],
): Promise<BoundProcess> {
  const pidFile = `${socket}.pid`;
  await rm(pidFile, { force: true });
  await rm(socket, { force: true });
  const tpm = await spawnBound("swtpm", [
    "socket",
    "--tpm2",
    ...["--tpmstate", `dir=${stateFolder},mode=0600`],
    ...(channel === "control"
      ? ["--ctrl", `type=unixio,path=${socket},mode=0600`]
      : ["--server", `type=unixio,path=${socket},mode=0600`, "--flags", "not-need-init,startup-clear"]),
    "--terminate",
    ...["--pid", `file=${pidFile}`],
  ]);
  const ended = new AbortController();
  void tpm.ended.then(() => ended.abort());
  // It writes its process id once its socket listens.
  await until(dirname(pidFile), () => existsSync(pidFile), ended.signal);
  if (ended.signal.aborted) throw new Error(`swtpm did not start: ${tpm.stderr().trim()}`);
  return tpm;
}

/** Where the chip that the board came with lies while another one is on it. */
const asideOf = (stateFolder: string): string => `${stateFolder}.original`;

/** Solders in another chip: a blank one, with an endorsement key of its own. The one that the board came with is kept. */
export async function replaceChip(stateFolder: string): Promise<void> {
  if (existsSync(asideOf(stateFolder))) await rm(stateFolder, { recursive: true });
  else await rename(stateFolder, asideOf(stateFolder));
  await mkdir(stateFolder, { mode: 0o700 });
}

/**
 * Solders the chip back in that the board came with.
 * @throws Error when it was not replaced
 */
export async function restoreChip(stateFolder: string): Promise<void> {
  if (!existsSync(asideOf(stateFolder))) throw new Error("the TPM that the board came with is on it");
  await rm(stateFolder, { recursive: true });
  await rename(asideOf(stateFolder), stateFolder);
}
