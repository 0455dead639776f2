/**
 * Typed changes to a device. A step is data; `render.ts` turns it into shell, the plan runner runs it as root. Every step is idempotent and may
 * be interrupted at any point: running the plan again leads to the same end.
 */
export type Step =
  | UploadStep
  | FileStep
  | RemoveStep
  | DirectoryStep
  | UnitStep
  | SysctlStep
  | ModuleStep
  | PackageStep
  | RunStep
  | CommitConfirmStep
  | RebootStep;

/** A step that the plan's own exec begins and ends: no upload, no change that waits for its confirmation, no reboot. */
export type PlainStep = Exclude<Step, UploadStep | CommitConfirmStep | RebootStep>;

interface StepBase {
  /** What a person reads in progress and errors: imperative, lower case, e.g. `turn off swap area /swapfile`. No secrets. */
  readonly title: string;
  /**
   * A shell test that must hold on the device right before the step, in the same exec; otherwise the plan stops with `preconditionFailed`.
   * Required by convention on everything destructive, since the plan may stem from a stale observation.
   */
  readonly precondition?: string;
}

/**
 * A large file of this machine, put onto the device: streamed, resumed where an earlier run was cut off, verified there. Uploads come first in a plan, each in an exec of its own; what follows them
 * may rely on the file, and on nothing else that was so before.
 */
export interface UploadStep extends StepBase {
  readonly kind: "upload";
  /** Absolute path of a regular file on this machine. */
  readonly source: string;
  /** Absolute path on the device. Its folder has to be there and root's alone to change; a symbolic link at the path is replaced, never followed. */
  readonly path: string;
  readonly bytes: number;
  /** SHA-256 of the content, in lower-case hex. */
  readonly sha256: string;
  /** Octal digits, e.g. `0644`. */
  readonly mode: string;
  /** `user:group`; default `root:root`. */
  readonly owner?: string;
}

/** A regular file with exactly this content: temporary file in the same directory, mode and owner set before content, fsync, rename, fsync of the directory. */
export interface FileStep extends StepBase {
  readonly kind: "file";
  /** Absolute path. A symbolic link at the path is replaced, never followed. */
  readonly path: string;
  readonly content: string;
  /** Octal digits, e.g. `0644`. */
  readonly mode: string;
  /** `user:group`; default `root:root`. */
  readonly owner?: string;
}

/** Makes sure that a file, link or empty directory is not there. */
export interface RemoveStep extends StepBase {
  readonly kind: "remove";
  readonly path: string;
}

export interface DirectoryStep extends StepBase {
  readonly kind: "directory";
  readonly path: string;
  readonly mode: string;
  readonly owner?: string;
}

/** State of one systemd unit. `daemon-reload` is run first whenever `reload` is true (its files changed). */
export interface UnitStep extends StepBase {
  readonly kind: "unit";
  readonly unit: string;
  readonly enabled?: boolean;
  readonly masked?: boolean;
  readonly active?: boolean;
  readonly daemonReload?: boolean;
}

/** Kernel parameter, now. Keeping it over a boot is a `FileStep` in `/etc/sysctl.d`. */
export interface SysctlStep extends StepBase {
  readonly kind: "sysctl";
  readonly key: string;
  readonly value: string;
}

export interface ModuleStep extends StepBase {
  readonly kind: "module";
  readonly module: string;
  readonly loaded: boolean;
}

/** Debian packages present (installed without recommends) or absent. */
export interface PackageStep extends StepBase {
  readonly kind: "package";
  readonly package: string;
  readonly installed: boolean;
}

/** Anything else. */
export interface RunStep extends StepBase {
  readonly kind: "run";
  /** POSIX `sh`; fails the plan when its exit status is not 0. */
  readonly script: string;
  /** Given to the script as standard input; may be a secret. */
  readonly stdin?: string;
  /**
   * For a secret, the TPM that has to be there: SHA-256 of its endorsement key's public area, in lower-case hex. The plan, with all that it carries, is sent once that TPM has answered a challenge on the
   * same connection, or not at all. No step after a reboot, which is sent over another connection, may ask for it. Default: the pinned host key alone says who gets it.
   */
  readonly onlyToTpm?: string;
  /** Deadline on the device, in seconds; default 60. */
  readonly timeoutSeconds?: number;
  /** `warn`: when it fails, the user is told what it printed, and the plan goes on; for what only looks. Default `fail`. */
  readonly onFailure?: "fail" | "warn";
}

/**
 * A change that can cut the connection. The device arms the revert first (monotonic timer, and a marker that any later boot acts on before the
 * network is up), then runs `apply`; only a confirmation over a new connection with this change's nonce keeps it.
 * At most one in a plan, and it is the last step.
 */
export interface CommitConfirmStep extends StepBase {
  readonly kind: "commitConfirm";
  readonly apply: readonly PlainStep[];
  /** Files saved (with mode and owner, or their absence) before, and put back by the revert. */
  readonly files: readonly string[];
  /** Shell run before the change with `$EDGESEAL_SAVED` naming an empty directory: saves kernel state there. */
  readonly save: string;
  /** Shell run by the revert after `files` are back, with the same `$EDGESEAL_SAVED`: puts the kernel state back. Must be idempotent. It
   * also runs in early boot, so it waits for no unit; `$EDGESEAL_REVERT_REASON` says why it runs. */
  readonly restore: string;
  /** What the node goes back to, for messages: e.g. `no edgeseal table` or `the rules loaded before`. */
  readonly rollbackTo: string;
  /** Time for the confirmation, in seconds of the device's monotonic clock. Default 30. */
  readonly windowSeconds?: number;
}

/**
 * A boot of the node, orderly, by its own system. It is the last step of a plan, and no plan holds both it and a commit-confirmed change: a boot would take that back.
 *
 * It is asked for once everything before it succeeded and is on the disk. Done is it when the node answers over a new, authenticated connection in another boot than before (by the kernel's
 * boot id); what is read back is read then, when that boot has come to its end.
 */
export interface RebootStep extends StepBase {
  readonly kind: "reboot";
  /** How long the node may take, from the request to an answer, in whole seconds from 10 to 3600. A Pi 5 takes 20 to 60, a file system check or firmware update minutes. */
  readonly waitSeconds: number;
  /**
   * What happens when the node has sealed volumes and no approval for the state that the next boot would measure, so that they would stay locked: the plan stops with
   * `refused`, or the node boots all the same, and the user is warned. `unasked`: nothing, where that was settled before, and can't be told in this boot. Default `refuse`.
   */
  readonly unapproved?: "refuse" | "allow" | "unasked";
  /** Asks the firmware of a Raspberry Pi to read tryboot.txt in the place of config.txt in the boot that follows, and in that one only. Default `false`. */
  readonly tryboot?: boolean;
  /**
   * An absolute path: the state that has to be approved is that of a boot with the files of this folder on the boot partition, in the place of those that have their names there. Default: the boot partition
   * as it is.
   */
  readonly approvedWith?: string;
  /** Done right before the boot is asked for, once nothing speaks against it any more, and taken back when it is not granted. Both shell. Default: nothing. */
  readonly prepare?: { readonly script: string; readonly undo: string };
  /** Done in the new boot, over the new connection, before what is read back is read. The last of them may be another reboot. Default: nothing. */
  readonly afterwards?: readonly (PlainStep | RebootStep)[];
}

export const upload = (step: Omit<UploadStep, "kind">): UploadStep => ({ kind: "upload", ...step });
export const file = (step: Omit<FileStep, "kind">): FileStep => ({ kind: "file", ...step });
export const remove = (step: Omit<RemoveStep, "kind">): RemoveStep => ({ kind: "remove", ...step });
export const directory = (step: Omit<DirectoryStep, "kind">): DirectoryStep => ({
  kind: "directory",
  ...step,
});
export const unit = (step: Omit<UnitStep, "kind">): UnitStep => ({ kind: "unit", ...step });
export const sysctl = (step: Omit<SysctlStep, "kind">): SysctlStep => ({ kind: "sysctl", ...step });
export const kernelModule = (step: Omit<ModuleStep, "kind">): ModuleStep => ({ kind: "module", ...step });
export const debianPackage = (step: Omit<PackageStep, "kind">): PackageStep => ({ kind: "package", ...step });
export const run = (step: Omit<RunStep, "kind">): RunStep => ({ kind: "run", ...step });
export const commitConfirm = (step: Omit<CommitConfirmStep, "kind">): CommitConfirmStep => ({
  kind: "commitConfirm",
  ...step,
});
export const reboot = (step: Omit<RebootStep, "kind">): RebootStep => ({ kind: "reboot", ...step });
