import { Type, type Static } from "typebox";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import { quote } from "../device/shell-quote.ts";
import type { Observed } from "../resource.ts";
import { parseContainerProcesses, readContainerProcesses } from "./container-process.ts";
import { contentOf, onDevice, parseMarks, readMarks, type ManagedFile } from "./managed-files.ts";
import { actionOn, meaningOf, parseFilter, type Filter } from "./seccomp-profile-filter.ts";
import type { SeccompProfileInputs } from "./seccomp-profile-inputs.ts";
import { architectures, type Architecture } from "./seccomp-profile-names.ts";
import { triedCalls } from "./seccomp-profile-tried.ts";
import { provenOn, seccompDocument } from "./seccomp-profile-variants.ts";
import { content, oneOf, texts, textsByName } from "./state-schema.ts";

/** Folders that the profile is in, of which nobody but root may change what they hold. */
export const seccompFolders = ["/etc/edgeseal", "/etc/edgeseal/seccomp"] as const;
export const seccompPath = (name: string): string => `/etc/edgeseal/seccomp/${name}.json`;

export const seccompFile = (inputs: SeccompProfileInputs): ManagedFile => ({
  path: seccompPath(inputs.name),
  mode: "0644",
  content: seccompDocument(inputs),
});

export const seccompProfileState = Type.Object({
  defaultAction: Type.String({
    description:
      "What becomes of every call that the profile does not list: `EPERM`, refused with that error; `missing` without the file and `unreadable` with a bad one, with both of which podman starts nothing.",
  }),
  calls: textsByName(
    "What the profile on the node says of each call that it lists: `allowed`, with conditions on its arguments, or the error that it is refused with; where the architectures differ, for each.",
  ),
  allowedCalls: Type.Integer({
    description: "How many calls it allows on the node's architecture. Reported only.",
  }),
  dangerousCalls: texts(
    "Calls that it lets through, by what it says or as the kernel showed it, though no inference server needs them and attacks on the kernel begin with them. `[]` for the profiles of edgeseal.",
  ),
  trial: oneOf(
    ["done", "no profile", "no python3", "no libseccomp"],
    "Whether the profile was loaded on the node, with libseccomp and in a process of its own, and calls were tried under it.",
  ),
  letThrough: texts("Those of the tried calls that the profile lets through, as the kernel showed it."),
  undecided: texts(
    "Those that the node refuses with the same error without the profile, so that the trial shows nothing. Reported only.",
  ),
  architecture: Type.String({ description: "The node's, as `uname -m` says. Reported only." }),
  proof: Type.String({
    description:
      "Whether this variant was seen to start, answer and end under its profile on that architecture: `proven on aarch64`, or `unproven on aarch64`. Reported only.",
  }),
  containerSeccomp: oneOf(
    ["filter", "strict", "off", "no container runs"],
    "How the kernel filters the calls of the container that runs as this service (`Seccomp:` in /proc/PID/status of its first process). Reported only: the container's own resource minds it.",
  ),
  containerFilters: Type.Integer({
    description:
      "How many filters are stacked on it: the profile, and those of its unit. 0 without a container. Reported only.",
  }),
  content,
  files: textsByName("Mode, owner and digest of the profile and its folders, by path."),
});

export type SeccompProfileState = Static<typeof seccompProfileState>;

const trial = onDevice("seccomp-trial.py");
const tried = JSON.stringify(triedCalls.map((each) => [each.name, each.call, each.arguments]));

export function seccompProfileProbe(inputs: SeccompProfileInputs): Probe<Observed<SeccompProfileState>> {
  const { name } = inputs;
  const path = seccompPath(name);
  return {
    id: `edgeseal:security:SeccompProfile#${name}`,
    parts: {
      architecture: "uname -m",
      marks: `${folderMarks}\n${readMarks([path])}`,
      profile: `[ ! -f ${path} ] || cat -- ${path}`,
      trial: `if [ ! -f ${path} ]; then echo 'no profile'
elif ! command -v python3 >/dev/null; then echo 'no python3'
else python3 -I -c ${quote(trial)} ${path} ${quote(tried)}
fi`,
      processes: readContainerProcesses(name),
    },
    parse: (parts) => ({ outcome: "present", state: parseSeccompProfile(parts, inputs) }),
  };
}

export const plainFolder = "0755 root:root directory";
const folderMarks = seccompFolders
  .map((each) => `[ ! -e ${each} ] && [ ! -L ${each} ] || stat -c '%n %a %U:%G %F' -- ${each}`)
  .join("\n");

function parseSeccompProfile(
  parts: Readonly<Record<string, PartOutput>>,
  inputs: SeccompProfileInputs,
): SeccompProfileState {
  const path = seccompPath(inputs.name);
  const files = parseMarks(outputOf(parts, "marks"));
  const text = outputOf(parts, "profile");
  const architecture = outputOf(parts, "architecture").trim();
  const [first] = parseContainerProcesses(outputOf(parts, "processes"));
  // The program does not understand what podman does not either.
  const readable = parseFilter(text, "x86_64") !== undefined;
  const meaning = profileMeaning(files[path] === undefined ? undefined : text);
  const tried =
    readable || files[path] === undefined
      ? readTrial(outputOf(parts, "trial"))
      : { trial: "no profile" as const, letThrough: [], undecided: [] };
  return {
    ...meaning,
    allowedCalls: allowedOn(text, architecture),
    dangerousCalls: triedCalls
      .filter((each) => each.dangerous)
      .map(({ name }) => name)
      .filter((name) => meaning.dangerousCalls.includes(name) || tried.letThrough.includes(name)),
    ...tried,
    architecture,
    proof: `${provenOn[inputs.variant].some((each) => each === architecture) ? "proven" : "unproven"} on ${architecture}`,
    containerSeccomp: first === undefined ? "no container runs" : seccompMode(first.seccompMode),
    containerFilters: first?.seccompFilters ?? 0,
    content: contentOf([seccompFile(inputs)], files),
    files,
  };
}

/** What a profile says, on every architecture at once. */
export function profileMeaning(
  text: string | undefined,
): Pick<SeccompProfileState, "defaultAction" | "calls" | "dangerousCalls"> {
  if (text === undefined) return { defaultAction: "missing", calls: {}, dangerousCalls: [] };
  const filters = architectures.flatMap((architecture) => {
    const filter = parseFilter(text, architecture);
    return filter === undefined ? [] : [{ architecture, filter }];
  });
  const [first] = filters;
  if (first === undefined || filters.length < architectures.length)
    return { defaultAction: "unreadable", calls: {}, dangerousCalls: [] };
  const meanings = filters.map(({ architecture, filter }) => ({ architecture, said: meaningOf(filter) }));
  const names = [...new Set(meanings.flatMap(({ said }) => Object.keys(said)))].sort();
  return {
    defaultAction: first.filter.otherwise === "allow" ? "allowed" : first.filter.otherwise,
    calls: Object.fromEntries(names.map((name) => [name, together(name, meanings)])),
    dangerousCalls: triedCalls
      .filter((each) => each.dangerous && filters.some(({ filter }) => lets(filter, each)))
      .map(({ name }) => name),
  };
}

function together(
  name: string,
  meanings: readonly { readonly architecture: Architecture; readonly said: Record<string, string> }[],
): string {
  const each = meanings.map(({ architecture, said }) => ({ architecture, words: said[name] }));
  const [first] = each;
  if (first?.words !== undefined && each.every(({ words }) => words === first.words)) return first.words;
  return each
    .flatMap(({ architecture, words }) => (words === undefined ? [] : [`${words} on ${architecture}`]))
    .join(", ");
}

const lets = (filter: Filter, { call, arguments: args }: (typeof triedCalls)[number]): boolean =>
  actionOn(filter, call, args) === "allow";

/** Those of the tried calls that a profile lets through, where nothing else stands in the way. */
export function lettingThrough(text: string): string[] {
  const filter = parseFilter(text, "x86_64");
  return triedCalls.filter((each) => filter === undefined || lets(filter, each)).map(({ name }) => name);
}

function allowedOn(text: string, architecture: string): number {
  const known = architectures.find((each) => each === architecture);
  const filter = known === undefined ? undefined : parseFilter(text, known);
  return filter === undefined
    ? 0
    : Object.values(meaningOf(filter)).filter((words) => words.startsWith("allowed")).length;
}

function readTrial(output: string): Pick<SeccompProfileState, "trial" | "letThrough" | "undecided"> {
  const said = output.trim();
  if (said === "no profile" || said === "no python3" || said === "no libseccomp")
    return { trial: said, letThrough: [], undecided: [] };
  const letThrough: string[] = [];
  const undecided: string[] = [];
  const answers = new Map(
    said.split("\n").map((line) => {
      const [, name = "", without, under] = /^(\S+) (\d+) (\d+)$/.exec(line) ?? [];
      return [name, { without, under }];
    }),
  );
  for (const { name } of triedCalls) {
    const { without, under } = answers.get(name) ?? {};
    if (without === undefined || under === undefined)
      throw new UnknownObservation(`the trial of the seccomp profile does not tell of ${name}`);
    if (without !== under) continue;
    // Refused is EPERM, or ENOSYS: the same error without the profile says nothing.
    (without === "1" || without === "38" ? undecided : letThrough).push(name);
  }
  return { trial: "done", letThrough, undecided };
}

function seccompMode(mode: number): "filter" | "strict" | "off" {
  if (mode === 2) return "filter";
  if (mode === 1) return "strict";
  if (mode === 0) return "off";
  throw new UnknownObservation(`the kernel tells an unknown seccomp mode: ${mode}`);
}
