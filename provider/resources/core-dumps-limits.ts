import { baseName, byteOrder, type ConfigFiles } from "./config-files.ts";
import { coreDumpFiles } from "./core-dumps-files.ts";

/** What pam_limits(8) makes of the files of limits.conf(5), as far as core dumps go. */
export interface CoreLimits {
  /** Whose hard core limit is not 0: users, `@groups`, ranges, `*` and `root`. Sorted. */
  readonly allowed: readonly string[];
  /** Users and groups that a file other than ours names with a core limit. Sorted. */
  readonly named: readonly string[];
  /** Files whose lines ours can't undo. */
  readonly overriding: readonly string[];
}

interface Line {
  readonly domain: string;
  readonly path: string;
  /** Hard limit of 0. */
  readonly none: boolean;
  /** `USER -`, which lifts all limits and can't be undone by a later line. */
  readonly exempt: boolean;
}

/**
 * Who may dump core after logging in. Of several lines for one user or group the last one counts: limits.conf is read first, then limits.d in the
 * order of the names. `*` does not cover root (limits.conf(5)). What no line names keeps the limit that sshd or getty has.
 */
export function coreLimits(files: ConfigFiles): CoreLimits {
  const lines = [...files.keys()]
    .filter(
      (path) =>
        path === "/etc/security/limits.conf" || /^\/etc\/security\/limits\.d\/[^/]+\.conf$/.test(path),
    )
    .sort((a, b) => order(a, b))
    .flatMap((path) => (files.get(path) ?? []).flatMap((line) => parseLine(line, path)));
  const last = new Map<string, Line | undefined>([
    ["*", undefined],
    ["root", undefined],
  ]);
  for (const line of lines) if (last.get(line.domain)?.exempt !== true) last.set(line.domain, line);
  const open = [...last].filter(([, line]) => line?.none !== true);
  const foreign = lines.filter(({ path, exempt }) => path !== coreDumpFiles.limits && !exempt);
  return {
    allowed: open.map(([domain]) => domain).sort(byteOrder),
    named: [...new Set(foreign.map(({ domain }) => domain))]
      .filter((domain) => domain !== "*" && domain !== "root")
      .sort(byteOrder),
    overriding: open.flatMap(([, line]) =>
      line !== undefined && (line.exempt || order(line.path, coreDumpFiles.limits) > 0) ? [line.path] : [],
    ),
  };
}

/** limits.conf comes first, whatever its name. */
function order(a: string, b: string): number {
  const isMain = (path: string): number => (path === "/etc/security/limits.conf" ? 0 : 1);
  return isMain(a) - isMain(b) || byteOrder(baseName(a), baseName(b));
}

function parseLine(line: string, path: string): readonly Line[] {
  const [domain = "", ...words] = (line.split("#")[0] ?? "").trim().split(/\s+/);
  // pam_limits takes everything but names in capitals, too.
  const [type, item, value] = words.map((word) => word.toLowerCase());
  if (domain === "") return [];
  if (type === "-" && item === undefined) return [{ domain, path, none: false, exempt: true }];
  if (item !== "core" || value === undefined || (type !== "hard" && type !== "-")) return [];
  return [{ domain, path, none: /^0+$/.test(value), exempt: false }];
}

/** Our file: nobody may dump core, each user and group that another file names included, since a line of theirs beats one for `*`. */
export function limitsContent(named: readonly string[]): string {
  const lines = ["*", "root", ...named].map((domain) => `${domain} - core 0`);
  return ["# Written by edgeseal (edgeseal:memory:CoreDumps).", ...lines, ""].join("\n");
}
