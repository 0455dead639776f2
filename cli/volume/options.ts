import type { PassphraseOptions } from "../keys/passphrase.ts";

/** `recover` does what is needed for the volumes that need it; `rotate` gives each a new slot. */
export type Task = "recover" | "rotate";

/** The options of `edgeseal volume recover` and `rotate`, as commander gives them. */
export interface VolumeOptions extends PassphraseOptions {
  readonly site: string;
  readonly stack?: string;
  readonly keys?: string;
  readonly recoveryKey?: string;
  readonly boundTo?: string;
  readonly tpm?: string;
  readonly unpinnedTpm?: true;
  readonly dryRun?: true;
  readonly yes?: true;
  readonly json?: true;
}

/** Exit statuses beside 0 and 1; 2 is wrong usage, and 3 is that of the set-up. */
export const exitStatus = { notDone: 4, tpmNotShown: 5, refused: 6 } as const;
