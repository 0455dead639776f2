import { byteOrder } from "./config-files.ts";
import type { Architecture } from "./seccomp-profile-names.ts";

/*
 * System call filters: what they say of a call, and the format in which podman reads them (seccomp.json of containers/common, which it turns into the one of the OCI's
 * runtime specification).
 */

/** A condition on one argument of a call: `(argument & mask) == equals`, both 64 bits wide. */
export interface ArgumentTest {
  /** The argument's place, from 0. */
  readonly argument: number;
  /** Default: all bits. */
  readonly mask?: number;
  readonly equals: number;
}

/** What a filter says of a call, under conditions that all have to hold. The first that holds counts; where none does, the filter's default. */
export interface Verdict {
  /** `allow`, or an action in the filter's own words, e.g. `ENOSYS`. */
  readonly action: string;
  readonly when: readonly ArgumentTest[];
}

/** A filter as one architecture has it. */
export interface Filter {
  /** What becomes of every other call, e.g. `EPERM`. */
  readonly otherwise: string;
  readonly calls: ReadonlyMap<string, readonly Verdict[]>;
}

/** What a filter does with a call: `allow`, an errno's name, or another action. */
export function actionOn(filter: Filter, call: string, args: readonly (number | bigint)[] = []): string {
  const verdicts = filter.calls.get(call) ?? [];
  const holds = ({ argument, mask, equals }: ArgumentTest): boolean => {
    const value = BigInt.asUintN(64, BigInt(args[argument] ?? 0));
    return (mask === undefined ? value : value & BigInt(mask)) === BigInt(equals);
  };
  // libseccomp lets the rule without conditions win, wherever it stands.
  const unconditional = verdicts.find(({ when }) => when.length === 0);
  return (unconditional ?? verdicts.find(({ when }) => when.every(holds)))?.action ?? filter.otherwise;
}

/** What a filter says of each call, in words; calls of which it says no more than of all others are left out. */
export function meaningOf({ calls }: Filter): Record<string, string> {
  const meanings = [...calls].map(([call, verdicts]): [string, string] => {
    const always = verdicts.find(({ when }) => when.length === 0);
    const said = always === undefined ? verdicts : [always];
    return [call, [...new Set(said.map(words))].join(" or ")];
  });
  return Object.fromEntries(meanings.sort(([a], [b]) => byteOrder(a, b)));
}

function words({ action, when }: Verdict): string {
  const shown = (value: number): string => (value < 10 ? String(value) : `0x${value.toString(16)}`);
  const conditions = when.map(
    ({ argument, mask, equals }) =>
      `argument ${argument}${mask === undefined ? "" : ` & ${shown(mask)}`} == ${shown(equals)}`,
  );
  const what = action === "allow" ? "allowed" : action;
  return conditions.length === 0 ? what : `${what} where ${conditions.join(" and ")}`;
}

// --- podman's format ---

/** Of asm-generic/errno-base.h and errno.h; what is not here is shown by its number. */
const errnos: Readonly<Record<number, string>> = { 1: "EPERM", 13: "EACCES", 38: "ENOSYS" };

/** One entry of `syscalls`. */
export interface FilterEntry {
  readonly names: readonly string[];
  readonly comment: string;
  readonly action: "allow" | "ENOSYS";
  readonly when: readonly ArgumentTest[];
  /** Default: on both. */
  readonly only: Architecture | undefined;
}

const architectureNames: Readonly<
  Record<Architecture, { readonly libseccomp: string; readonly go: string }>
> = {
  x86_64: { libseccomp: "SCMP_ARCH_X86_64", go: "amd64" },
  aarch64: { libseccomp: "SCMP_ARCH_AARCH64", go: "arm64" },
};

/**
 * A filter that refuses everything but its entries, in podman's format. It knows no second architecture of a processor (32-bit x86, x32, 32-bit ARM): a call by the numbers of
 * another one ends the process.
 */
export function filterDocument(entries: readonly FilterEntry[]): string {
  const document = {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: 1,
    archMap: Object.values(architectureNames).map(({ libseccomp }) => ({
      architecture: libseccomp,
      subArchitectures: [],
    })),
    syscalls: entries.map(({ names, comment, action, when, only }) => ({
      comment,
      names,
      ...(action === "allow"
        ? { action: "SCMP_ACT_ALLOW" }
        : { action: "SCMP_ACT_ERRNO", errnoRet: Number(errnoOf(action)) }),
      ...(when.length === 0 ? {} : { args: when.map(argumentOf) }),
      ...(only === undefined ? {} : { includes: { arches: [architectureNames[only].go] } }),
    })),
  };
  return `${JSON.stringify(document, undefined, 2)}\n`;
}

const errnoOf = (name: string): string | undefined =>
  Object.entries(errnos).find(([, each]) => each === name)?.[0];

const argumentOf = ({ argument, mask, equals }: ArgumentTest) =>
  mask === undefined
    ? { index: argument, value: equals, op: "SCMP_CMP_EQ" }
    : { index: argument, value: mask, valueTwo: equals, op: "SCMP_CMP_MASKED_EQ" };

type Plain = Readonly<Record<string, unknown>>;
const isPlain = (value: unknown): value is Plain =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const textsOf = (value: unknown): readonly string[] | undefined =>
  Array.isArray(value) && value.every((each) => typeof each === "string") ? value : undefined;

/**
 * What a file in podman's format says on one architecture; `undefined` where it can't be read, or does not name the architecture, with which podman runs nothing or
 * the kernel ends the process. An entry that is understood in part only is taken for one that allows its calls.
 */
export function parseFilter(text: string, architecture: Architecture): Filter | undefined {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isPlain(document)) return undefined;
  const { defaultAction, defaultErrnoRet, archMap, syscalls } = document;
  const { libseccomp } = architectureNames[architecture];
  const known =
    Array.isArray(archMap) && archMap.some((each) => isPlain(each) && each["architecture"] === libseccomp);
  if (typeof defaultAction !== "string" || !known || !Array.isArray(syscalls)) return undefined;
  const calls = new Map<string, Verdict[]>();
  for (const entry of syscalls as readonly unknown[]) {
    if (!isPlain(entry)) return undefined;
    const names = textsOf(entry["names"] ?? [entry["name"]]);
    if (names === undefined) return undefined;
    if (!concerns(entry, architecture)) continue;
    const verdict = verdictOf(entry);
    for (const name of names) calls.set(name, [...(calls.get(name) ?? []), verdict]);
  }
  return { otherwise: actionName(defaultAction, defaultErrnoRet), calls };
}

function concerns(entry: Plain, architecture: Architecture): boolean {
  const arches = (key: string): readonly string[] | undefined => {
    const filter = entry[key];
    return isPlain(filter) ? textsOf(filter["arches"]) : undefined;
  };
  const { go } = architectureNames[architecture];
  if (arches("excludes")?.includes(go) === true) return false;
  return arches("includes")?.includes(go) ?? true;
}

function verdictOf(entry: Plain): Verdict {
  const action = actionName(String(entry["action"]), entry["errnoRet"]);
  const args: unknown = entry["args"] ?? [];
  const tests = Array.isArray(args) ? args.map(testOf) : [undefined];
  // Where conditions are not understood, they may always hold.
  const when = tests.every((each) => each !== undefined) ? tests : [];
  return { action, when };
}

function testOf(value: unknown): ArgumentTest | undefined {
  if (!isPlain(value)) return undefined;
  const { index, value: first, valueTwo = 0, op } = value;
  if (typeof index !== "number" || typeof first !== "number" || typeof valueTwo !== "number")
    return undefined;
  if (op === "SCMP_CMP_EQ") return { argument: index, equals: first };
  if (op === "SCMP_CMP_MASKED_EQ") return { argument: index, mask: first, equals: valueTwo };
  return undefined;
}

function actionName(action: string, errno: unknown): string {
  if (action === "SCMP_ACT_ALLOW") return "allow";
  if (action !== "SCMP_ACT_ERRNO") return action;
  const code = typeof errno === "number" ? errno : 1;
  return errnos[code] ?? `errno ${code}`;
}
