import type { Connection } from "../../provider/connection.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import { measuredDirectory } from "../../provider/resources/measured-boot-files.ts";
import {
  updatePhases,
  updateStatus,
  type UpdatePhase,
} from "../../provider/resources/measured-boot-update.ts";
import {
  settingsDirectory,
  statusDirectory,
  trustDirectory,
} from "../../provider/resources/sealed-volume-files.ts";
import { judgeReplay, parseEventLog } from "../../provider/trust/event-log.ts";
import { askNode, type AskOptions } from "../ask-node.ts";

/** Where a node is in an update. */
export interface UpdateReading {
  readonly phase: UpdatePhase;
  /** Why it went back, or is going. */
  readonly reason: string | undefined;
  /** Whether it has booted since the update was armed; `undefined` when none is under way. */
  readonly hasBooted: boolean | undefined;
  /** The policy digest of the state that it can go back to; `undefined` when it has no copy of one. */
  readonly keptPolicy: string | undefined;
  /** The policy digests that it has signatures for, and the keys (their fingerprints) that made them. */
  readonly approved: ReadonlySet<string>;
  readonly signedBy: ReadonlySet<string>;
  /** PCR 11 as the TPM has it. */
  readonly pcr11: string;
  /** Whether the log of this boot leads to that value, from a TPM that was reset. */
  readonly consistent: boolean;
  /** Sealed volumes, and whether they are open. */
  readonly volumes: Readonly<Record<string, boolean>>;
  /** The kernel's id of this boot. */
  readonly bootId: string;
}

const parts = {
  status: updateStatus,
  pcr11: "cat /sys/class/tpm/tpm0/pcr-sha256/11",
  log: `cat ${measuredDirectory}/log`,
  boot: "cat /proc/sys/kernel/random/boot_id",
  approvals: `cat ${trustDirectory}/approvals.json`,
  volumes: `for conf in ${settingsDirectory}/*.conf; do
  [ -e "$conf" ] || continue
  name=\${conf##*/} name=\${name%.conf}
  if grep -qx state=open "${statusDirectory}/$name"; then echo "open $name"; else echo "locked $name"; fi
done`,
} as const;

/**
 * Reads where a node is in an update: one connection, one exec.
 * @throws DeviceError, also for a node that has not what an update takes
 */
export async function readUpdate(connection: Connection, options?: AskOptions): Promise<UpdateReading> {
  const answers = await askNode(connection, parts, options);
  const { node } = connection;
  const text = (part: keyof typeof parts): string => {
    const answer = answers[part];
    if (answer?.code === 0) return answer.stdout;
    throw new DeviceError("unknown", node, `the node can't say where it is in an update (${part})`, {
      originalMessage: answer?.stderr.slice(0, 300) ?? "no answer",
      hint: "declare measured boot for the node, run `pulumi up`, and reboot it",
    });
  };
  const status = text("status");
  const value = (key: string): string | undefined => new RegExp(`^${key}=(.*)$`, "m").exec(status)?.[1];
  const phase = updatePhases.find((each) => each === value("phase"));
  const pcr11 = text("pcr11").trim().toLowerCase();
  if (phase === undefined || !/^[0-9a-f]{64}$/.test(pcr11)) {
    throw new DeviceError("unknown", node, "what the node says of its update is not understood", {
      hint: "run `pulumi up`: it brings the measuring program to what it must be",
    });
  }
  return {
    phase,
    reason: value("reason"),
    hasBooted: value("booted") === undefined ? undefined : value("booted") === "yes",
    keptPolicy: value("kept"),
    ...signaturesIn(answers["approvals"]?.code === 0 ? answers["approvals"].stdout : ""),
    pcr11,
    consistent: judgeReplay(parseEventLog(text("log")), pcr11) === "consistent",
    volumes: Object.fromEntries(
      [...text("volumes").matchAll(/^(open|locked) (\S+)$/gm)].map(
        ([, is, name = ""]): readonly [string, boolean] => [name, is === "open"],
      ),
    ),
    bootId: text("boot").trim(),
  };
}

/** What systemd's signature file holds. Whatever else is there approves nothing. */
function signaturesIn(json: string): Pick<UpdateReading, "approved" | "signedBy"> {
  const words = (key: string): ReadonlySet<string> =>
    new Set(
      [...json.matchAll(new RegExp(`"${key}"\\s*:\\s*"([0-9a-f]{64})"`, "g"))].map(([, word = ""]) => word),
    );
  return { approved: words("pol"), signedBy: words("pkfp") };
}
