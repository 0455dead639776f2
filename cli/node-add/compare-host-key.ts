import { fingerprint, hostKeyTypes } from "../../provider/device/host-key.ts";
import type { ScannedPlace, scanHostKey, ShownHostKey } from "../../provider/device/scan-host-key.ts";
import { where } from "../../provider/device/ssh2-transport.ts";
import { UserError } from "../errors.ts";
import {
  expectationText,
  hostPart,
  isExpected,
  judgeAnswer,
  type CheckLine,
  type Expectation,
} from "./comparison.ts";
import { exitStatus } from "./options.ts";

/** How a comparison is made with the world; given, so that tests need neither device nor terminal. */
export interface ComparisonWorld {
  readonly scan: typeof scanHostKey;
  /** Whether there is a person to ask. */
  readonly canAsk: () => boolean;
  readonly ask: (question: string, mend: string) => Promise<string>;
}

/** A host key that was compared with what the device's console shows. */
export interface ComparedHostKey {
  readonly key: ShownHostKey;
  /** How it was compared, in words. */
  readonly how: string;
  /** The check line that it was compared with, when it was. */
  readonly line: CheckLine | undefined;
}

/**
 * Asks a device for its host key, and has it compared: with what is expected, else by a person. There is no other way out of this with a key.
 * @throws UserError when it differs, or nobody compared it; DeviceError when it is not to be had. Nothing was sent then.
 */
export async function compareHostKey(
  place: ScannedPlace,
  expectation: Expectation,
  world: ComparisonWorld,
  signal: AbortSignal,
): Promise<ComparedHostKey> {
  const { pin, line } = expectation;
  if (pin !== undefined || line !== undefined) {
    const key = await scanExpected(place, expectation, world, signal);
    const how = [...(pin === undefined ? [] : ["--host-key"]), ...(line === undefined ? [] : ["--expect"])];
    return { key, how: how.join(" and "), line };
  }
  if (!world.canAsk()) throw nobodyToAsk();
  const key = await world.scan(place, hostKeyTypes, { signal });
  if (key === undefined) throw noKnownType(place);
  const typed = await world.ask(question(place, key), nobodyToAskMend);
  const answer = judgeAnswer(typed, key);
  if (answer.says === "compared") return { key, how: answer.how, line: answer.line };
  if (answer.says === "no") {
    process.exitCode = exitStatus.notCompared;
    throw new UserError(
      "the host key was not compared: nothing was sent to the device, and nothing was written",
    );
  }
  throw differs(place, "what you typed", [key]);
}

/** A device has a key of each type, and the console may show another one than that which is asked for first. */
async function scanExpected(
  place: ScannedPlace,
  expectation: Expectation,
  { scan }: ComparisonWorld,
  signal: AbortSignal,
): Promise<ShownHostKey> {
  const shown: ShownHostKey[] = [];
  let types = expectation.pin?.types ?? hostKeyTypes;
  while (types.length > 0) {
    const key = await scan(place, types, { signal });
    if (key === undefined) break;
    if (isExpected(expectation, key)) return key;
    shown.push(key);
    const rest = types.filter((type) => type !== key.type);
    // A key of a type that was not asked for: asking on would not end.
    if (rest.length === types.length) break;
    types = rest;
  }
  throw differs(place, expectationText(expectation), shown);
}

const shownAs = (key: ShownHostKey): string => `${key.type} ${fingerprint(key.blob)}`;

function differs(place: ScannedPlace, expected: string, shown: readonly ShownHostKey[]): UserError {
  process.exitCode = exitStatus.notExpected;
  const found = shown.map((key) => `${shownAs(key)} (check ${hostPart(key)})`).join(", ");
  return new UserError(
    `the host key at ${where(place)} is not the expected one: expected ${expected}, shown ${found === "" ? "none of that type" : found}`,
    {
      hint: "nothing was sent to the device: this is another one, or somebody is in between; if you may have mistyped, look at the console again",
    },
  );
}

function noKnownType(place: ScannedPlace): UserError {
  return new UserError(`sshd at ${where(place)} has no host key of a type that edgeseal takes`, {
    hint: `on the device: ssh-keygen -A, then systemctl restart ssh (types: ${hostKeyTypes.join(", ")})`,
  });
}

const nobodyToAskMend =
  "give what the device's console shows: --expect 'LINE' or --host-key KEY; `edgeseal node console-script` prints the script that shows it";

function nobodyToAsk(): UserError {
  process.exitCode = exitStatus.notCompared;
  return new UserError(
    "there is no terminal for a person to compare the host key at, and a key is never trusted for being the first",
    { hint: nobodyToAskMend },
  );
}

// Written to the terminal as a whole: who compares has to see it, wherever standard output and standard error go.
const question = (
  place: ScannedPlace,
  key: ShownHostKey,
): string => `What answers at ${where(place)} shows this host key, which proves nothing yet:

  host key     ${key.type}
  fingerprint  ${fingerprint(key.blob)}
  check        ${hostPart(key)}

Compare it with what the device's own console shows: \`sudo sh first-contact\` there, the script that \`edgeseal node console-script\` prints,
or \`ssh-keygen -lf /etc/ssh/ssh_host_${fileOf(key.type)}_key.pub\`. Not over the network.

Type what the console shows (the check line, or the first 16 characters of the fingerprint, or more), or yes if it is the same: `;

/** `ecdsa` of `ecdsa-sha2-nistp256`. */
const fileOf = (type: string): string => type.replace(/^ssh-/, "").replace(/-sha2-.*/, "");
