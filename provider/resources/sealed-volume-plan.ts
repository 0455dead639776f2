import type { Probe } from "../device/probe.ts";
import { quote } from "../device/shell-quote.ts";
import { debianPackage, directory, file, remove, run, type RunStep, type Step } from "../device/step.ts";
import { PlanRefused } from "../resource.ts";
import { parseApproval } from "../trust/approval.ts";
import { nothingLost, putBeside } from "./approval-shipping.ts";
import { desiredMarks, differingFiles } from "./managed-files.ts";
import { tellOfNextBoot } from "./reboot-inputs.ts";
import {
  approvalsPath,
  capUnit,
  isUnit,
  managedFiles,
  mappingOf,
  policyKeyOf,
  recordsDirectory,
  recoveryKeyOf,
  settingsDirectory,
  trustDirectory,
  unlockProgram,
  unlockUnit,
} from "./sealed-volume-files.ts";
import { leastMiB, type SealedVolumeInputs } from "./sealed-volume-inputs.ts";
import { lookingFor } from "./sealed-volume-observation.ts";
import { place } from "./sealed-volume-partition.ts";
import type { SealedVolumeState } from "./sealed-volume-state.ts";

/** Filling the key slot area with noise, and a cautious card. */
const formatSeconds = 300;
/** A TPM on SPI makes its storage key anew where none is kept: some 10 s. */
const enrolSeconds = 120;
/** 1 TB on a slow disk; ext4 leaves most of its tables for later. */
const mkfsSeconds = 900;
/** The unlock program's own waiting (30 s), the TPM, twice, and a file system check (600 s). */
const openSeconds = 780;

/** Over systemd's own 90 s for a reload that something holds up. */
const unitSeconds = 120;

const MiB = 1024 * 1024;

const tpmOverlay = "on a Pi 5: dtparam=spi=on and dtoverlay=tpm-slb9670 in config.txt (boot:FirmwareConfig)";

const ciphers = {
  "aes-xts": { cipher: "aes-xts-plain64", keyBits: 512 },
  adiantum: { cipher: "xchacha12,aes-adiantum-plain64", keyBits: 256 },
} as const;

/** The state that must hold. What was decided when the volume was formed is left out where the inputs leave it open. */
export function desiredVolume(inputs: SealedVolumeInputs): Partial<SealedVolumeState> {
  const { device, cipher, filesystem, mountPoint, readOnly } = inputs;
  return {
    formation: "complete",
    ...(typeof device === "string" ? { device } : {}),
    devicePresent: true,
    headerMatchesPins: true,
    headerUnfinished: false,
    // What a refresh shows of the reasons why it is not as it should be.
    headerDifferences: [],
    lockedReason: "",
    policyKey: policyKeyOf(inputs),
    recoveryKey: recoveryKeyOf(inputs),
    ...(cipher === "auto" ? {} : { cipher: ciphers[cipher].cipher }),
    open: true,
    mountedAt: mountPoint,
    missingOptions: [],
    filesystem,
    readOnly,
    pcr15Capped: true,
    files: desiredMarks(managedFiles(inputs)),
    bootUnits: { [unlockUnit]: "enabled", [capUnit]: "enabled" },
    missingPackages: [],
  };
}

/**
 * Steps that form the volume, or bring one that is formed to how it has to be opened and mounted. None of them formats a volume that was finished.
 * @throws PlanRefused when what is there must not be touched, or can be mended by a person or by a boot only.
 */
export function planVolume(inputs: SealedVolumeInputs, state: SealedVolumeState): readonly Step[] {
  const formed = state.formation === "complete";
  if (formed) requireOurs(inputs, state);
  const formation = formed ? [] : form(inputs, state);
  return [
    ...packages(state),
    ...installed(inputs, state, { newVolume: formation.length > 0, approvals: "replaced" }),
    ...(formed ? maintain(inputs, state) : formation),
    ...mounted(inputs, state, formed),
    ...capped(state),
    ...(formation.length > 0 ? [tellOfNextBoot()] : told(state)),
  ];
}

// --- what must not be touched ---

function requireOurs(inputs: SealedVolumeInputs, state: SealedVolumeState): void {
  const { name } = inputs;
  if (!state.devicePresent) {
    throw new PlanRefused(
      `the device of the volume ${name}, ${state.device}, is not there`,
      "connect it; should it be gone for good, move its record in /var/lib/edgeseal/volumes away, and a new volume is formed on a blank device",
    );
  }
  if (state.pinnedDigest === "") {
    throw new PlanRefused(
      `the volume ${name} was finished, and its pins (${settingsDirectory}/${name}.pins) are gone: what is on ${state.device} now can't be told from what was formed`,
      "put the file back from a backup of the node; the recovery key opens the volume meanwhile",
    );
  }
  if (state.headerDifferences.length > 0) {
    throw new PlanRefused(
      `the header of ${name} on ${state.device} is not the pinned one: ${state.headerDifferences.join("; ")}`,
      "somebody changed or exchanged it: with the original back the next boot opens the volume",
    );
  }
  const fixed = (what: string, is: string, wanted: string, mend: string): void => {
    if (is === wanted) return;
    throw new PlanRefused(`${what} of the volume ${name} is ${is === "" ? "none" : is}, not ${wanted}`, mend);
  };
  fixed(
    "the policy key",
    state.policyKey,
    policyKeyOf(inputs),
    "another key, or another generation, needs a new key slot, which the recovery key authorizes: edgeseal volume recover",
  );
  if (state.recoveryKey === "") {
    throw new PlanRefused(
      `the recovery ciphertext of the volume ${name} is not on the node, or not all of it: once this TPM is gone, nothing opens the volume`,
      `put it back to ${recordsDirectory}/${name}/recovery, from recoveryCiphertext in the state of the stack, which keeps the last one`,
    );
  }
  fixed(
    "the recovery key",
    state.recoveryKey,
    recoveryKeyOf(inputs),
    "for another one the volume's key has to be encrypted anew, which the present recovery key authorizes: edgeseal volume recover",
  );
  const fresh =
    "a volume is never formatted again: make a new one, with another name, and copy what is on this";
  if (inputs.cipher !== "auto") fixed("the cipher", state.cipher, ciphers[inputs.cipher].cipher, fresh);
  if (state.mountedAt !== "") fixed("the file system", state.filesystem, inputs.filesystem, fresh);
}

function requireFormable(inputs: SealedVolumeInputs, state: SealedVolumeState): void {
  const { name, filesystem, mayErase } = inputs;
  const { device, content, usedBy, deviceBytes } = state;
  if (!state.tpmPresent) {
    throw new PlanRefused(
      "the node has no TPM (/dev/tpmrm0), and the volume's key is to be sealed to it",
      tpmOverlay,
    );
  }
  if (device === "") return;
  if (!state.devicePresent) {
    throw new PlanRefused(
      `there is no block device ${device}`,
      "`ls -l /dev/disk/by-id /dev/disk/by-partuuid` on the node lists them",
    );
  }
  if (usedBy.length > 0) {
    throw new PlanRefused(
      `${device} is in use: ${usedBy.join(", ")}`,
      `name another device for the volume ${name}, or free this one on the node if what is on it may be lost`,
    );
  }
  const found = content.filter((type) => !mayErase.includes(type));
  // A volume that was begun and not finished looks like one of edgeseal's; whether it is this one, the device tells itself, right before it is formatted.
  const begun =
    state.formation === "forming" &&
    found.every((type) => type === `edgeseal:${state.recoveryFor}` || type === "unknown-data");
  if (found.length > 0 && !begun) {
    throw new PlanRefused(
      `${device} is not blank, it holds ${found.join(", ")}`,
      found.some((type) => type.startsWith("edgeseal:"))
        ? `that is a sealed volume, whose records are not on this node: with ${recordsDirectory}/${name} and ${settingsDirectory}/${name}.pins back from a backup, edgeseal volume recover opens it. Only if what is on it may be lost, name it in mayErase`
        : `only if that may be lost, name it in mayErase of the volume ${name}`,
    );
  }
  if (deviceBytes < leastMiB[filesystem] * MiB) {
    throw new PlanRefused(
      `${device} has ${Math.floor(deviceBytes / MiB)} MiB, and ${filesystem} in LUKS takes at least ${leastMiB[filesystem]}`,
      `name a larger device for the volume ${name}`,
    );
  }
}

// --- what is installed ---

const packages = ({ missingPackages }: SealedVolumeState): readonly Step[] =>
  missingPackages.map((name) => debianPackage({ title: `install ${name}`, package: name, installed: true }));

/** A package may have the initramfs built anew; apt's own warning is in the node's journal, and comes before a first volume has its settings. */
const told = ({ missingPackages }: SealedVolumeState): readonly Step[] =>
  missingPackages.length === 0 ? [] : [tellOfNextBoot()];

const publicDirectories: readonly string[] = ["/usr/lib/edgeseal", "/etc/edgeseal", trustDirectory];

/**
 * All volumes of a node open by one file of approvals. By a new generation of the policy key one after the other is sealed, which takes the recovery key, and may fail or be cut off: until it is done,
 * a volume opens by the approvals of the generation before, which are kept beside the new ones.
 */
function installed(
  inputs: SealedVolumeInputs,
  state: SealedVolumeState,
  { newVolume, approvals }: { readonly newVolume: boolean; readonly approvals: "replaced" | "kept beside" },
): readonly Step[] {
  const private_ = [
    settingsDirectory,
    "/var/lib/edgeseal",
    recordsDirectory,
    `${recordsDirectory}/${inputs.name}`,
  ];
  const differing = differingFiles(managedFiles(inputs), state.files);
  const directories =
    differing.length === 0 && !newVolume
      ? []
      : [
          ...publicDirectories.map((path) => directory({ title: `make ${path}`, path, mode: "0755" })),
          ...private_.map((path) => directory({ title: `make ${path}`, path, mode: "0700" })),
        ];
  return [
    ...directories,
    ...differing.flatMap(({ path, mode, content }) => {
      const written = file({ title: `write ${path}`, path, mode, content });
      if (path !== approvalsPath || inputs.approval === undefined || !(path in state.files)) return [written];
      const approval = parseApproval(inputs.approval);
      return approvals === "replaced" ? [nothingLost(approval), written] : [putBeside(approval)];
    }),
    ...bootUnits(
      state,
      differing.some(({ path }) => isUnit(path)),
    ),
  ];
}

/** One step for both, since systemd reads all its units anew for each. */
function bootUnits({ bootUnits }: SealedVolumeState, changed: boolean): readonly Step[] {
  const units = [unlockUnit, capUnit];
  const found = units.map((name) => bootUnits[name] ?? "not enabled");
  if (!changed && found.every((each) => each === "enabled")) return [];
  const changedBy = found.flatMap((each) => /^changed by (.+)$/.exec(each)?.[1] ?? []);
  const names = units.join(" ");
  return [
    ...changedBy.map((path) => remove({ title: `remove ${path}, which changes a unit of edgeseal's`, path })),
    run({
      title: `have ${units.join(" and ")} start at boot`,
      script: [
        "set -eu",
        ...(found.includes("masked")
          ? [`systemctl unmask ${names}`, `systemctl unmask --runtime ${names}`]
          : []),
        // Reads the files themselves, and has systemd read them at its end.
        `systemctl enable ${names}`,
        `for unit in ${names}; do`,
        `  found=$(systemctl is-enabled "$unit" || :)`,
        `  [ "$found" = enabled ] || { echo "$unit is not enabled but $found" >&2; exit 1; }`,
        "done",
      ].join("\n"),
      timeoutSeconds: unitSeconds,
    }),
  ];
}

// --- formation ---

/** A step of the formation: its functions, what they need, and the one that is called. */
function forming(
  inputs: SealedVolumeInputs,
  step: {
    readonly title: string;
    readonly call: string;
    readonly values?: Readonly<Record<string, string>>;
    /** A function that refuses unless the step may be taken. */
    readonly unless?: string;
    readonly timeoutSeconds?: number;
  },
): RunStep {
  const values = Object.entries(step.values ?? {}).map(([key, value]) => `${key}=${quote(value)}`);
  const script = (call: string): string => [lookingFor(inputs), ...values, call].join("\n");
  return run({
    title: step.title,
    script: script(step.call),
    ...(step.unless === undefined ? {} : { precondition: script(step.unless) }),
    ...(step.timeoutSeconds === undefined ? {} : { timeoutSeconds: step.timeoutSeconds }),
  });
}

function form(inputs: SealedVolumeInputs, state: SealedVolumeState): readonly Step[] {
  requireFormable(inputs, state);
  const { name, node, generation, filesystem } = inputs;
  const partition = state.device === "" ? newPartition(inputs, state) : undefined;
  const device = partition?.device ?? state.device;
  const { cipher, keyBits } =
    ciphers[inputs.cipher === "auto" ? (state.aesInstructions ? "aes-xts" : "adiantum") : inputs.cipher];
  const values = { device };
  return [
    ...(state.open
      ? [
          forming(inputs, {
            title: `close ${name}, which was begun and not finished`,
            call: "close_unfinished",
            values,
          }),
        ]
      : []),
    ...(partition === undefined ? [] : [partition.step]),
    forming(inputs, {
      title: `make the recovery key of ${name}, and encrypt it to the site's`,
      call: "prepare",
      unless: "may_format",
      values: { ...values, node, recovery_key: recoveryKeyOf(inputs) },
    }),
    forming(inputs, {
      title: `format ${device} as LUKS2`,
      call: "format",
      unless: "may_format",
      values: { ...values, cipher, key_size: String(keyBits) },
      timeoutSeconds: formatSeconds,
    }),
    forming(inputs, {
      title: `seal a key slot of ${name} to the TPM`,
      call: "enrol",
      unless: "unfinished",
      values: { ...values, generation: String(generation) },
      timeoutSeconds: enrolSeconds,
    }),
    forming(inputs, {
      title: `open ${name} with its recovery key`,
      call: "open_unfinished",
      unless: "unfinished",
      values,
    }),
    forming(inputs, {
      title: `make an ${filesystem} file system on ${name}`,
      call: "make_filesystem",
      unless: "may_make_filesystem",
      values: { ...values, filesystem },
      timeoutSeconds: mkfsSeconds,
    }),
    finish(inputs, device),
  ];
}

const finish = (inputs: SealedVolumeInputs, device: string): Step =>
  forming(inputs, {
    title: `pin the header of ${inputs.name}`,
    call: "finish",
    values: { device, filesystem: inputs.filesystem },
  });

function newPartition(inputs: SealedVolumeInputs, { disk }: SealedVolumeState) {
  const { name, node, device } = inputs;
  if (typeof device === "string" || disk === undefined) {
    throw new PlanRefused("the disk can't be looked at without sfdisk", "install fdisk on the node");
  }
  const where = place(disk, { path: device.disk, sizeMiB: device.sizeMiB, node, name });
  if (typeof where === "string")
    throw new PlanRefused(
      where,
      "see `lsblk` and `sfdisk --list` on the node; nothing was written to the disk",
    );
  const values = {
    number: String(where.number),
    start: String(where.start),
    sectors: String(where.sectors),
    sector: String(disk.sectorBytes),
    partuuid: where.partuuid,
    attributes: where.attributes,
    table_sha256: disk.digest,
  };
  return {
    device: `/dev/disk/by-partuuid/${where.partuuid}`,
    step: forming(inputs, {
      title: `make a partition of ${device.sizeMiB} MiB in the unallocated space of ${device.disk}`,
      call: "make_partition",
      unless: "may_make_partition",
      values,
    }),
  };
}

// --- a volume that is formed ---

function maintain(inputs: SealedVolumeInputs, state: SealedVolumeState): readonly Step[] {
  const { name, device } = inputs;
  return [
    ...(state.headerMatchesPins && !state.headerUnfinished
      ? []
      : // It may be found by that already, and is not by what is pinned.
        [finish(inputs, typeof device === "string" ? device : state.device)]),
    ...(typeof device === "string" && device !== state.device
      ? [
          forming(inputs, {
            title: `find ${name} by ${device} from now on`,
            call: "point",
            values: { device },
          }),
        ]
      : []),
  ];
}

function mounted(
  { name, mountPoint, readOnly }: SealedVolumeInputs,
  state: SealedVolumeState,
  formed: boolean,
): readonly Step[] {
  if (formed && !state.open) {
    // Of use only while PCR 15 is not capped; otherwise it says why the volume is locked, and that a boot may open it.
    return [
      run({
        title: `open ${name} by the TPM`,
        script: `${unlockProgram} --open ${quote(name)}`,
        timeoutSeconds: openSeconds,
      }),
    ];
  }
  const asItShould =
    state.mountedAt === mountPoint && state.readOnly === readOnly && state.missingOptions.length === 0;
  if (formed && asItShould) return [];
  return [
    run({
      title: `mount ${name} at ${mountPoint}`,
      script: `${unlockProgram} --mount ${quote(name)}`,
      timeoutSeconds: openSeconds,
    }),
  ];
}

function capped({ pcr15Capped, tpmPresent }: SealedVolumeState): readonly Step[] {
  if (pcr15Capped) return [];
  if (!tpmPresent) {
    throw new PlanRefused("the node has no TPM (/dev/tpmrm0), so PCR 15 can't be capped", tpmOverlay);
  }
  return [
    run({
      title: "cap PCR 15, so that nothing sealed can be unsealed before the next boot",
      script: `set -eu
/usr/lib/edgeseal/cap-pcr15
grep -qv '^0*$' /sys/class/tpm/tpm0/pcr-sha256/15 || { echo 'PCR 15 is still zeros' >&2; exit 1; }`,
    }),
  ];
}

/** Asks the node whether a finished volume may be sealed anew: its header has to be the pinned one, but for the TPM's slot. The answer is what is in the way, or `undefined`. */
export const resealProbe = (inputs: SealedVolumeInputs, device: string): Probe<string | undefined> => ({
  id: `reseal#${inputs.name}`,
  parts: { header: [lookingFor(inputs), `device=${quote(device)}`, "may_seal_again"].join("\n") },
  parse: ({ header }) =>
    header?.code === 0 ? undefined : (header?.stderr.trim().split("\n").at(-1) ?? "the node did not answer"),
});

/**
 * Steps that have the TPM which is there now open a finished volume, by the policy key of the inputs, and that open and mount it: after another TPM was put in, or a new
 * generation of the policy key. The old slot goes, and with it whatever its approvals opened. Where the site has another recovery key, or the node another name, the volume's is encrypted to
 * that key, under that name, from then on. What is on the volume stays.
 *
 * No plan of `pulumi up` holds them, since they take the recovery key, which never enters Pulumi.
 * @param recoveryKey The volume's, as `openRecovery` gives it; travels on standard input.
 * @param renamed Whether its ciphertext is bound to another name of the node.
 * @throws PlanRefused for a volume that was not finished.
 */
export function recoverVolume(
  inputs: SealedVolumeInputs,
  state: SealedVolumeState,
  recoveryKey: string,
  { renamed = false }: { readonly renamed?: boolean } = {},
): readonly Step[] {
  const { name, node, generation } = inputs;
  if (state.formation !== "complete") {
    throw new PlanRefused(
      `the volume ${name} was not finished, so there is nothing to recover`,
      "run pulumi up",
    );
  }
  const enrol = forming(inputs, {
    title: `seal ${name} to the TPM anew, and open it`,
    call: "enrol_again",
    unless: "may_seal_again",
    values: {
      device: state.device,
      node,
      generation: String(generation),
      recovery_key: recoveryKeyOf(inputs),
      ...(renamed ? { renamed: "yes" } : {}),
    },
    timeoutSeconds: enrolSeconds,
  });
  const beside = { newVolume: false, approvals: "kept beside" } as const;
  const approves = differingFiles(managedFiles(inputs), state.files).some(
    ({ path }) => path === approvalsPath,
  );
  return [
    ...packages(state),
    ...installed(inputs, state, beside),
    { ...enrol, stdin: recoveryKey },
    run({
      title: `mount ${name} at ${inputs.mountPoint}`,
      script: `${unlockProgram} --mount ${quote(name)}`,
      timeoutSeconds: openSeconds,
    }),
    // Once more: nothing keeps what this volume opened by, if no other one needs it.
    ...(inputs.approval !== undefined && approves ? [putBeside(parseApproval(inputs.approval))] : []),
    ...told(state),
  ];
}

/**
 * Steps that leave the volume closed at this and every later boot. Nothing on it is erased, and its pins, its record and its recovery ciphertext stay: declared again, the
 * next boot opens it. What other volumes need stays as well: the units, the programs, the keys.
 */
export function releaseVolume(inputs: SealedVolumeInputs, state: SealedVolumeState): readonly Step[] {
  const { name, mountPoint } = inputs;
  const mapping = mappingOf(name);
  return [
    ...(state.open
      ? [
          run({
            title: `unmount and close ${name}`,
            script: `set -eu
for place in $(awk -v device="$(cat "/sys/class/block/$(basename "$(readlink -e /dev/mapper/${mapping})")/dev")" '$3 == device { print $5 }' /proc/self/mountinfo); do
  umount -- "$place"
done
cryptsetup close ${mapping}`,
          }),
        ]
      : []),
    run({
      title: `have ${mountPoint} be a directory like any other`,
      // The unlock program made it immutable, where its file system knows that.
      script: `chattr -i -- ${quote(mountPoint)} 2>/dev/null || :`,
    }),
    remove({ title: `remove the settings of ${name}`, path: `${settingsDirectory}/${name}.conf` }),
  ];
}
