/*
 * The kernel's command line as a list of parameters: read as the kernel does (kernel/params.c, `next_arg`), edited with all else kept byte for byte.
 */

/** One parameter and where it stands in its line. */
interface Parameter {
  readonly text: string;
  readonly from: number;
  readonly to: number;
}

/** All words of a line. White space within double quotes separates nothing. */
function wordsOf(line: string): readonly Parameter[] {
  return [...line.matchAll(/(?:"[^"]*(?:"|$)|[^\s"])+/g)].map((match) => ({
    text: match[0],
    from: match.index,
    to: match.index + match[0].length,
  }));
}

/** The parameters of a line: its words up to `--`, after which all is for init. */
function parametersOf(line: string): readonly Parameter[] {
  const words = wordsOf(line);
  const end = words.findIndex(({ text }) => text === "--");
  return end === -1 ? words : words.slice(0, end);
}

const splitParameter = (text: string): readonly [string, string | undefined] => {
  const at = text.indexOf("=");
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
};

/** The kernel takes `-` and `_` in names for the same; quotes around a value, or around all of it, are none of it. */
const nameOf = (text: string): string => splitParameter(text.replaceAll('"', ""))[0].replaceAll("-", "_");
const valueOf = (text: string): string | undefined => splitParameter(text.replaceAll('"', ""))[1];

/** Parameters that may be given several times, and each counts. Of others the last one does. */
const addingUp: ReadonlySet<string> = new Set([
  "blacklist",
  "cgroup_disable",
  "cgroup_enable",
  "console",
  "earlycon",
  "memmap",
  "modprobe.blacklist",
  "module_blacklist",
  "systemd.mask",
  "systemd.setenv",
  "systemd.wants",
]);

/** Parameters that undo another, whichever comes last. */
const opposite: Readonly<Record<string, string>> = {
  cgroup_enable: "cgroup_disable",
  cgroup_disable: "cgroup_enable",
};

/** Parameters that are a list, of which a declaration asks for some members: whatever else is in it stays. */
const lists: ReadonlySet<string> = new Set(["lsm"]);

const members = (value: string | undefined): readonly string[] =>
  (value ?? "").split(",").filter((each) => each !== "");

const isSame = (one: string, other: string): boolean =>
  nameOf(one) === nameOf(other) && valueOf(one) === valueOf(other);

/** `present`, `missing`, or what stands in its way. */
export function presence(line: string, declared: string): string {
  const all = parametersOf(line).map(({ text }) => text);
  const name = nameOf(declared);
  const named = all.filter((text) => nameOf(text) === name);
  const last = named.at(-1);
  if (last === undefined) return "missing";
  if (lists.has(name)) {
    const have = members(valueOf(last));
    const lacking = members(valueOf(declared)).filter((member) => !have.includes(member));
    return lacking.length === 0 ? "present" : `'${last}' lacks ${lacking.join(", ")}`;
  }
  if (!addingUp.has(name)) return isSame(last, declared) ? "present" : `it is '${last}'`;
  const at = all.findLastIndex((text) => isSame(text, declared));
  if (at === -1) return "missing";
  const undoing = opposite[name];
  const undone = all
    .slice(at + 1)
    .find((text) => nameOf(text) === undoing && valueOf(text) === valueOf(declared));
  return undone === undefined ? "present" : `'${undone}' comes after it`;
}

/** Whether a parameter stands on a line; one that is declared without a value, with any or none. */
function isOn(text: string, declared: string): boolean {
  return valueOf(declared) === undefined ? nameOf(text) === nameOf(declared) : isSame(text, declared);
}

/** `absent`, or the parameter that is there. */
export function absence(line: string, declared: string): string {
  const found = parametersOf(line).find(({ text }) => isOn(text, declared));
  return found === undefined ? "absent" : `'${found.text}' is there`;
}

/** The line without parts of it, and without the white space before each, or after it at the line's beginning. */
function without(line: string, gone: readonly Parameter[]): string {
  let text = line;
  for (const { from, to } of [...gone].reverse()) {
    const before = text.slice(0, from).replace(/\s+$/, "");
    const after = text.slice(to);
    text = before === "" ? after.replace(/^\s+/, "") : before + after;
  }
  return text;
}

/** The line with what is declared present and absent so; all else as it was. Changes nothing on a line that is as declared. */
export function editCommandLine(
  line: string,
  declared: { readonly present: readonly string[]; readonly absent: readonly string[] },
): string {
  let text = line;
  for (const each of declared.absent) {
    text = without(
      text,
      parametersOf(text).filter((parameter) => isOn(parameter.text, each)),
    );
  }
  for (const each of declared.present) {
    if (presence(text, each) !== "present") text = add(text, each);
  }
  return text;
}

function add(line: string, declared: string): string {
  const name = nameOf(declared);
  const last = addingUp.has(name)
    ? undefined
    : parametersOf(line).findLast(({ text }) => nameOf(text) === name);
  if (last !== undefined) {
    const have = lists.has(name) ? members(valueOf(last.text)) : [];
    const all = [...have, ...members(valueOf(declared)).filter((member) => !have.includes(member))];
    const value = lists.has(name) ? `${splitParameter(declared)[0]}=${all.join(",")}` : declared;
    return line.slice(0, last.from) + value + line.slice(last.to);
  }
  const end = wordsOf(line).find(({ text }) => text === "--");
  if (end !== undefined) return `${line.slice(0, end.from)}${declared} ${line.slice(end.from)}`;
  return line.trim() === "" ? declared : `${line.trimEnd()} ${declared}${/\s*$/.exec(line)?.[0] ?? ""}`;
}

/**
 * The line without what was made of it: what was added goes, what was replaced or removed comes back as it was before.
 * @param before the line before the first edit
 */
export function revertCommandLine(
  line: string,
  before: string,
  declared: { readonly present: readonly string[]; readonly absent: readonly string[] },
): string {
  let text = line;
  for (const each of declared.present) {
    if (presence(before, each) === "present") continue;
    const name = nameOf(each);
    const former = addingUp.has(name)
      ? undefined
      : parametersOf(before).findLast((parameter) => nameOf(parameter.text) === name);
    const gone = parametersOf(text).filter((parameter) =>
      addingUp.has(name) ? isSame(parameter.text, each) : nameOf(parameter.text) === name,
    );
    const last = gone.at(-1);
    if (last === undefined) continue;
    text =
      former === undefined
        ? without(text, gone)
        : text.slice(0, last.from) + former.text + text.slice(last.to);
  }
  for (const each of declared.absent) {
    for (const { text: former } of parametersOf(before).filter((parameter) => isOn(parameter.text, each))) {
      if (absence(text, former) === "absent") text = add(text, former);
    }
  }
  return text;
}

/** What the trial boot of an edit has on its command line, so that it can be told from any other boot. */
export const trialParameter = "edgeseal.trial";

/** The command line of this boot, without what a trial added to it. */
export function withoutTrial(line: string): string {
  return without(
    line,
    parametersOf(line).filter(({ text }) => nameOf(text) === trialParameter),
  );
}

/** The trial that this boot is of, if it is one. */
export function trialOf(line: string): string | undefined {
  const found = parametersOf(line).find(({ text }) => nameOf(text) === trialParameter);
  return found === undefined ? undefined : valueOf(found.text);
}

const normal = (line: string): string =>
  parametersOf(line)
    .map(({ text }) => text)
    .join(" ");

/**
 * Whether a boot's command line was made of this cmdline.txt. The firmware puts parameters of its own before it, and the name of a device in the place of `serial0`.
 */
export function isMadeOf(booted: string, fileLine: string): boolean {
  const whole = ` ${normal(withoutTrial(booted))} `;
  return ["serial0", "ttyAMA10", "ttyAMA0", "ttyS0"].some((serial) =>
    whole.includes(` ${normal(fileLine).replaceAll("console=serial0", `console=${serial}`)} `),
  );
}
