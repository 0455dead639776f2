/*
 * config.txt of a Raspberry Pi, read as its firmware does: lines, sections, includes, and which setting has the last word.
 * Source: Raspberry Pi documentation, "config.txt" (file format, conditional filters) and "Device trees, overlays, and parameters".
 *
 * Text is Latin-1, a character for a byte: what is not ours is kept byte for byte.
 */

/** The firmware ignores what stands beyond it. */
export const longestLine = 98;

/** Lines that begin and end what is edgeseal's in config.txt. */
export const blockBegin = "# edgeseal begin: written by edgeseal, and overwritten by it";
export const blockEnd = "# edgeseal end";

/** What is edgeseal's in config.txt: the lines between its marks; `none` without any; `broken` where the marks are not one pair in order, so that nothing there is known to be edgeseal's. */
export type OwnBlock = { readonly begin: number; readonly end: number } | "none" | "broken";

/** @param lines of config.txt, without their ends */
export function ownBlock(lines: readonly string[]): OwnBlock {
  const marks = lines.flatMap((line, at) => (line === blockBegin || line === blockEnd ? [at] : []));
  const [begin, end, ...more] = marks;
  if (begin === undefined) return "none";
  if (end === undefined || more.length > 0 || lines[begin] !== blockBegin || lines[end] !== blockEnd)
    return "broken";
  return { begin, end };
}

export const linesOf = (text: string): readonly string[] =>
  text.split("\n").map((line) => line.replace(/\r$/, ""));

/** Whether a line counts on this board. What depends on a display, a serial number or a pin is `maybe`. */
export type Applies = "yes" | "no" | "maybe";

/** A line that says something. */
export interface ConfigLine {
  readonly file: string;
  /** From 1. */
  readonly number: number;
  readonly key: string;
  readonly value: string;
  readonly applies: Applies;
  /** The sections that it stands under, as they are written, e.g. `[cm5]`; empty under none or `[all]`. */
  readonly under: string;
  /** Whether it is within edgeseal's lines. */
  readonly ours: boolean;
}

/** The models that a section names, as the firmware of a Pi 5 and its kin understands them. */
const modelSections: Readonly<Record<string, RegExp>> = {
  pi5: /Raspberry Pi (5|500|Compute Module 5)/,
  pi500: /Raspberry Pi 500/,
  cm5: /Raspberry Pi Compute Module 5/,
  cm5l: /Raspberry Pi Compute Module 5 Lite/,
};
const otherModels = /^(pi[0-4]\w*|pi0\w*|pi02|pi400|cm[0134]\w*)$/;

/** What a section is about: the next one about the same takes its place, one about something else narrows it down further. */
function sectionOf(name: string, model: string): { readonly about: string; readonly applies: Applies } {
  const lower = name.toLowerCase();
  if (lower === "none") return { about: "none", applies: "no" };
  const pattern = modelSections[lower];
  if (pattern !== undefined) return { about: "model", applies: pattern.test(model) ? "yes" : "no" };
  if (otherModels.test(lower)) return { about: "model", applies: "no" };
  // Ordinary boots: with it the firmware reads tryboot.txt, not this file.
  if (lower === "tryboot") return { about: "tryboot", applies: "no" };
  return { about: /^[a-z]+/.exec(lower)?.[0] ?? lower, applies: "maybe" };
}

const worst = (all: readonly Applies[]): Applies =>
  all.includes("no") ? "no" : all.includes("maybe") ? "maybe" : "yes";

const deepestInclude = 8;

/**
 * The lines of config.txt that say something, in the order in which the firmware comes by them, with those of included files in their places.
 * @param files by name, as far as they exist; must hold `config.txt`
 * @param model as the device tree tells it, e.g. `Raspberry Pi 5 Model B Rev 1.0`
 */
export function readConfig(files: ReadonlyMap<string, string>, model: string): readonly ConfigLine[] {
  const lines: ConfigLine[] = [];
  // The sections in force, by what they are about.
  const sections = new Map<string, { readonly name: string; readonly applies: Applies }>();
  const block = ownBlock(linesOf(files.get("config.txt") ?? ""));
  const read = (file: string, depth: number): void => {
    for (const [index, whole] of linesOf(files.get(file) ?? "").entries()) {
      const ours = depth === 0 && typeof block === "object" && block.begin < index && index < block.end;
      const text = whole.slice(0, longestLine).trim();
      if (text === "" || text.startsWith("#")) continue;
      const section = /^\[(.*)\]$/.exec(text)?.[1];
      if (section !== undefined) {
        if (section.toLowerCase() === "all") sections.clear();
        else {
          const { about, applies } = sectionOf(section, model);
          sections.set(about, { name: section, applies });
        }
        continue;
      }
      const applies = worst([...sections.values()].map((each) => each.applies));
      const included = /^include\s+(\S+)$/.exec(text)?.[1];
      if (included !== undefined) {
        if (applies !== "no" && depth < deepestInclude) read(included, depth + 1);
        continue;
      }
      const [, key = "", value = ""] = /^([^=\s]+)(?:\s*=\s*|\s+)(.*)$/.exec(text) ?? [];
      if (key === "") continue;
      const under = [...sections.values()].map(({ name }) => `[${name}]`).join("");
      lines.push({ file, number: index + 1, key, value, applies, under, ours });
    }
  };
  read("config.txt", 0);
  return lines;
}

/** `[key, value]` of a declared setting such as `dtparam=spi=on`. */
export function splitSetting(setting: string): readonly [string, string] {
  const at = setting.indexOf("=");
  return [setting.slice(0, at), setting.slice(at + 1)];
}

/** Settings that add up: each line has its effect, whatever comes after it. */
const addingUp: ReadonlySet<string> = new Set([
  "dtoverlay",
  "gpio",
  "device_tree_overlay",
  "initramfs",
  "hdmi_cvt",
]);

/** Whether each line of a setting counts. */
export const isAddingUp = (key: string): boolean => addingUp.has(key);

/** The overlay's name and parameters in one form: `name:a,b` and `name,a,b` are the same. */
const overlayForm = (value: string): string => value.replace(":", ",").replaceAll(/\s+/g, "");

/** Switches have several spellings. */
const switchForm = (value: string): string => {
  const lower = value.trim().toLowerCase();
  if (["", "on", "yes", "y", "true", "1", "ok", "okay"].includes(lower)) return "on";
  if (["off", "no", "n", "false", "0"].includes(lower)) return "off";
  return lower;
};

interface Assignment {
  readonly line: ConfigLine;
  readonly value: string;
  /** Whether a `dtparam` is for the board, or, after a `dtoverlay`, may be for that overlay. */
  readonly forBoard: boolean;
}

/** Every line that has to do with a setting, in order. */
function assignments(lines: readonly ConfigLine[], setting: string): readonly Assignment[] {
  const [key, value] = splitSetting(setting);
  const [parameter] = splitParameter(value);
  let forBoard = true;
  return lines.flatMap((line): readonly Assignment[] => {
    if (line.applies === "no") return [];
    if (line.key === "dtoverlay") {
      // `dtoverlay=` ends the reach of the overlay before it.
      if (line.applies === "yes" || line.value !== "") forBoard = line.value === "";
    }
    if (line.key !== key) return [];
    if (key !== "dtparam") return [{ line, value: line.value, forBoard: true }];
    return line.value
      .split(",")
      .map(splitParameter)
      .filter(([name]) => name === parameter)
      .map(([, set]) => ({ line, value: set, forBoard }));
  });
}

function splitParameter(text: string): readonly [string, string] {
  const at = text.indexOf("=");
  return at === -1 ? [text.trim(), ""] : [text.slice(0, at).trim(), text.slice(at + 1)];
}

function isSame(setting: string, found: string): boolean {
  const [key, value] = splitSetting(setting);
  if (key === "dtoverlay") return overlayForm(found) === overlayForm(value);
  if (key === "dtparam") return switchForm(found) === switchForm(splitParameter(value)[1]);
  return found === value;
}

export const inForce = "in force";

const placeOf = ({ file, number, under }: ConfigLine): string =>
  `${file} line ${number}${under === "" ? "" : ` under ${under}`}`;

/**
 * Whether a setting is in force with the next boot: `in force`, or why it is not. The last word counts, unless it is a setting of which each line counts; a line whose section depends on
 * what only the firmware knows is enough to override, and not enough to set.
 */
export function statusOf(lines: readonly ConfigLine[], setting: string): string {
  const all = assignments(lines, setting);
  const sets = ({ line, value, forBoard }: Assignment): boolean =>
    line.applies === "yes" && forBoard && isSame(setting, value);
  const [key] = splitSetting(setting);
  if (addingUp.has(key)) {
    if (all.some(({ line, value }) => line.applies === "yes" && isSame(setting, value))) return inForce;
    const half = all.find(({ value }) => isSame(setting, value));
    return half === undefined ? "missing" : `not certain: ${placeOf(half.line)}`;
  }
  const last = all.at(-1);
  if (last === undefined) return "missing";
  const from = all.findLastIndex((each) => !isSame(setting, each.value));
  if (all.slice(from + 1).some(sets)) return inForce;
  if (isSame(setting, last.value)) return `not certain: ${placeOf(last.line)}`;
  return `overridden: ${placeOf(last.line)} has '${last.line.value}'`;
}

/**
 * edgeseal's lines for config.txt, without the marks; none when there is nothing to say. Parameters of the board come before overlays, which would take them for theirs.
 */
export function blockLines(settings: readonly string[]): readonly string[] {
  if (settings.length === 0) return [];
  const isParameter = (setting: string): boolean => setting.startsWith("dtparam=");
  const parameters = settings.filter(isParameter);
  return [
    "[all]",
    // Ends the reach of whatever overlay comes before; without one it does nothing.
    ...(parameters.length > 0 ? ["dtoverlay="] : []),
    ...parameters,
    ...settings.filter((setting) => !isParameter(setting)),
  ];
}
