import { randomBytes } from "node:crypto";
import { DeviceError } from "./errors.ts";
import type { PartOutput, Probe } from "./probe.ts";
import { quote } from "./shell-quote.ts";
import type { ExecResult } from "./transport.ts";

/*
 * Many probes in one script, and their answers cut apart again.
 *
 * Every line of ours starts with `@` and a nonce that is new for each exec and unguessable, on standard output and on standard error alike. So
 * neither what login scripts print before nor what device data holds (a file with lines like ours in it) can be taken for framing.
 */

/** A fresh nonce: 128 random bits in hex. */
export function newNonce(): string {
  return randomBytes(16).toString("hex");
}

// What may stand in a marker line as it is: no white space, no quotes, no shell metacharacters.
const namePattern = /^[A-Za-z0-9][A-Za-z0-9:#._/+-]*$/;

function nameOf(name: string): string {
  if (namePattern.test(name)) return name;
  throw new TypeError(
    `'${name}' can't name a probe or a part of one: it has to match ${String(namePattern)}`,
  );
}

/**
 * Shell that runs each probe's parts, framed: a fragment for the body of `renderScript`.
 *
 * Each part is evaluated from a string in a subshell of its own, so that one that exits, or that does not even parse, spoils nothing but itself.
 * @throws TypeError for a name that can't be framed, or two probes with one id.
 */
export function renderProbes(probes: readonly Probe<unknown>[], nonce: string): string {
  const seen = new Set<string>();
  // A line feed comes before each marker, since what is read (a file of /proc/device-tree, say) need not end with one.
  const lines = [
    `edgeseal_mark() { printf '\\n@%s %s\\n' ${nonce} "$*"; printf '\\n@%s %s\\n' ${nonce} "$*" >&2; }`,
  ];
  for (const probe of probes) {
    if (seen.has(probe.id)) throw new TypeError(`two probes of one batch have the id '${probe.id}'`);
    seen.add(probe.id);
    for (const [part, fragment] of Object.entries(probe.parts)) {
      lines.push(
        `edgeseal_mark begin ${quote(nameOf(probe.id))} ${quote(nameOf(part))}`,
        `( eval ${quote(fragment)} ) </dev/null`,
        `edgeseal_mark end $?`,
      );
    }
  }
  return lines.join("\n");
}

interface Section {
  readonly key: string;
  readonly text: string;
  /** Exit status from the end marker. */
  readonly code: number;
}

/** The framed sections of one output, in order; a section whose end never came is left out. */
function* sections(output: string, nonce: string): Generator<Section> {
  const marker = `\n@${nonce} `;
  // The first marker may stand at the very start of the output.
  const text = output.startsWith(marker.slice(1)) ? `\n${output}` : output;
  let open: { readonly key: string; readonly from: number } | undefined;
  for (let at = text.indexOf(marker); at !== -1;) {
    const eol = text.indexOf("\n", at + marker.length);
    if (eol === -1) return;
    const [verb, ...rest] = text.slice(at + marker.length, eol).split(" ");
    if (verb === "begin") {
      open = { key: rest.join(" "), from: eol + 1 };
    } else if (verb === "end" && open !== undefined) {
      // An empty section shares its one line feed between the two markers.
      yield { key: open.key, text: text.slice(open.from, Math.max(open.from, at)), code: Number(rest[0]) };
      open = undefined;
    }
    at = text.indexOf(marker, eol);
  }
}

/**
 * The answers to the probes of `renderProbes`, by probe id and part. What the device did not answer to the end is missing, never empty.
 */
export function parseProbes(
  stdout: string,
  stderr: string,
  nonce: string,
): ReadonlyMap<string, Readonly<Record<string, PartOutput>>> {
  const errors = new Map<string, string>();
  for (const section of sections(stderr, nonce)) errors.set(section.key, section.text.trim());
  const probes = new Map<string, Record<string, PartOutput>>();
  for (const { key, text, code } of sections(stdout, nonce)) {
    const [id = "", part = ""] = key.split(" ");
    const parts = probes.get(id) ?? {};
    parts[part] = { code, stdout: text, stderr: errors.get(key) ?? "" };
    probes.set(id, parts);
  }
  return probes;
}

/**
 * A whole script for one exec: a known environment, the body, and a last line by which the reader knows that nothing was cut off.
 *
 * The connection may go away while the script is on its way. All of it is one brace group, which a shell reads to its end before it runs any of
 * it: a truncated script runs nothing. (The body must not close the group, of course.)
 */
export function renderScript(body: string, nonce: string): string {
  const done = `printf '\\n@%s done\\n' ${nonce}`;
  return `{\nset -u\numask 022\ncd /\n${body}\n${done}\n${done} >&2\n}\n`;
}

/** Whether the script of `renderScript` ran to its last line and its output came over whole. */
export function isComplete(stdout: string, stderr: string, nonce: string): boolean {
  const last = `\n@${nonce} done\n`;
  return stdout.includes(last) && stderr.includes(last);
}

/** The probe and part that had begun and not ended, where the output stops: what a script that was cut off was busy with. */
export function unfinishedPart(stdout: string, nonce: string): string | undefined {
  const begin = `@${nonce} begin `;
  const at = stdout.lastIndexOf(begin);
  if (at === -1 || stdout.includes(`\n@${nonce} end `, at)) return undefined;
  const eol = stdout.indexOf("\n", at);
  return eol === -1 ? undefined : stdout.slice(at + begin.length, eol);
}

/**
 * Makes sure that a script of `renderScript` ran to its end.
 * @throws DeviceError `unknown`: an answer that was cut off is no answer.
 */
export function requireComplete(node: string, result: ExecResult, nonce: string): void {
  if (isComplete(result.stdout, result.stderr, nonce)) return;
  const busyWith = unfinishedPart(result.stdout, nonce);
  const how =
    result.signal === undefined ? `with exit status ${result.code ?? "none"}` : `by signal ${result.signal}`;
  const own = result.stderr.split("\n").filter((line) => line !== "" && !line.startsWith(`@${nonce} `));
  throw new DeviceError(
    "unknown",
    node,
    `the device's answer is incomplete: the script ended ${how}${busyWith === undefined ? "" : ` in '${busyWith}'`}`,
    {
      originalMessage: own.join("\n").trim().slice(-300) || "no error output",
      hint: "nothing was concluded from it; run the operation again",
    },
  );
}
