import type { Connection } from "../../provider/connection.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import type { PartOutput } from "../../provider/device/probe.ts";
import { stagedFiles, stagedFits } from "../../provider/resources/firmware-config-staged.ts";
import { askNode, type AskOptions } from "../ask-node.ts";

/** Which state of a node is meant: what its next boot will measure, what the boot after the trial of an edit will that is staged, or what this one has measured. */
export type WhichState = "next" | "afterTrial" | "current";

/** What a node says of one of its states. Nothing of it is believed for having been said. */
export interface NodeReading {
  /** The event log. */
  readonly log: string;
  /** Listings and other measured texts, as far as the node has them. */
  readonly texts: readonly string[];
  /** PCR 11 as the TPM has it now, 64 lower-case hex digits; only with the current state, `undefined` when the kernel does not show it. */
  readonly pcr11: string | undefined;
  /** Whether an edit of the boot files waits for its trial, so that the next boot is not yet with it. */
  readonly staged: boolean;
}

/** Ends the log; no line of one is like it. */
const textsFollow = "texts";

const printTexts = (folder: string): string => `echo ${textsFollow}
for text in ${folder}/*; do [ ! -f "$text" ] || base64 -w 0 "$text" && echo; done`;

const predict = (more = ""): Readonly<Record<string, string>> => ({
  log: `[ -x /usr/lib/edgeseal/measure ] || exit 66
folder=$(mktemp -d /run/edgeseal-approve.XXXXXX) || exit
trap 'rm -rf "$folder"' EXIT
/usr/lib/edgeseal/measure --next --keep "$folder" ${more} || exit
${printTexts('"$folder"')}`,
  staged: `${stagedFits}
staged_fits 2>/dev/null`,
});

const parts: Readonly<Record<WhichState, Readonly<Record<string, string>>>> = {
  next: predict(),
  afterTrial: predict(`--with ${stagedFiles}`),
  current: {
    log: `[ -f /run/edgeseal/measured/log ] || exit 66
cat /run/edgeseal/measured/log || exit
${printTexts("/run/edgeseal/measured/texts")}`,
    pcr11: "cat /sys/class/tpm/tpm0/pcr-sha256/11",
  },
};

/** What exit status 66 (EX_NOINPUT, sysexits.h) means. */
const missing: Readonly<Record<WhichState, string>> = {
  next: "the measuring program is not installed",
  afterTrial: "the measuring program is not installed",
  current: "this boot was not measured",
};

/**
 * Asks a node what a boot of it will measure, or what this one has measured. One connection, one exec; nothing is changed.
 * @throws DeviceError
 */
export async function readNode(
  connection: Connection,
  which: WhichState,
  options: AskOptions = {},
): Promise<NodeReading> {
  const answers = await askNode(connection, parts[which], options);
  const pcr11 = /^[0-9A-Fa-f]{64}$/.exec(answers["pcr11"]?.stdout.trim() ?? "")?.[0].toLowerCase();
  const staged = answers["staged"]?.code === 0;
  return { ...logAndTexts(connection.node, which, answers["log"]), pcr11, staged };
}

function logAndTexts(
  node: string,
  which: WhichState,
  part: PartOutput | undefined,
): Pick<NodeReading, "log" | "texts"> {
  if (part?.code === 66) {
    throw new DeviceError("unknown", node, missing[which], {
      hint: "declare measured boot for the node, run `pulumi up`, and reboot it",
    });
  }
  if (part?.code !== 0) {
    throw new DeviceError("unknown", node, "the node can't say what it measures", {
      originalMessage: part?.stderr.slice(0, 300) ?? "no answer",
      hint: "run `pulumi up`: it brings the measuring program to what it must be",
    });
  }
  const [log, encoded] = splitOnce(part.stdout, `${textsFollow}\n`);
  if (encoded === undefined) {
    throw new DeviceError("unknown", node, "the node's answer has no measured texts after the log", {
      hint: "run `pulumi up`: it brings the measuring program to what it must be",
    });
  }
  const lines = encoded.split("\n").filter((line) => line !== "");
  return { log, texts: lines.map((line) => Buffer.from(line, "base64").toString("utf8")) };
}

/** Text before and after the first line that is exactly this. */
function splitOnce(text: string, line: string): readonly [string, string | undefined] {
  const at = text.startsWith(line) ? 0 : text.indexOf(`\n${line}`) + 1;
  if (at === 0 && !text.startsWith(line)) return [text, undefined];
  return [text.slice(0, at), text.slice(at + line.length)];
}
