import { quote } from "../device/shell-quote.ts";
import { run, type Step } from "../device/step.ts";

/*
 * Histories of what people type: off for everybody who logs in, root included.
 *
 * /etc/profile.d reaches login shells alone. What reaches all is the environment that pam_env makes of /etc/environment (sshd, login, su, cron), kept by sudo, for every program
 * that takes a variable for it; and /etc/bash.bashrc, which each interactive bash reads, login or not, for what a ~/.bashrc sets afterwards.
 */

/** Each program's own way to have no history; /dev/null where none is documented. An empty value would be taken out by pam_env. */
export const historyVariables: Readonly<Record<string, string>> = {
  HISTFILE: "/dev/null",
  LESSHISTFILE: "-",
  MARIADB_HISTFILE: "/dev/null",
  MYSQL_HISTFILE: "/dev/null",
  OLLAMA_NOHISTORY: "1",
  PSQL_HISTORY: "/dev/null",
  PYTHON_HISTORY: "/dev/null",
  REDISCLI_HISTFILE: "/dev/null",
  SQLITE_HISTORY: "/dev/null",
};

export const environmentFile = "/etc/environment";
export const bashFile = "/etc/bash.bashrc";

/** What of the two leaves the device: an awk rule for `readFiles`. An environment may have passwords of proxies in it. */
export const historyLines = (): string =>
  `FILENAME == "${environmentFile}" { if (/^[ \\t]*(export[ \\t]+)?(${Object.keys(historyVariables).join("|")})=/) emit(); next } FILENAME == "${bashFile}" { if ($0 == "${begin}") inside = 1; if (inside) emit(); if ($0 == "${end}") inside = 0; next }`;

/** History files in a home. */
export const historyNames = [
  ".bash_history",
  ".history",
  ".sh_history",
  ".ash_history",
  ".ksh_history",
  ".zsh_history",
  ".zhistory",
  ".local/share/fish/fish_history",
  ".python_history",
  ".lesshst",
  ".local/state/lesshst",
  ".sqlite_history",
  ".mysql_history",
  ".mariadb_history",
  ".psql_history",
  ".rediscli_history",
  ".node_repl_history",
  ".ollama/history",
] as const;

const begin = "# edgeseal: histories off (edgeseal:memory:Scratch)";
const end = "# edgeseal: end";

/** A ~/.bashrc comes later. `readonly` would end it at the line that sets HISTFILE; the tenth prompt command stays when one is assigned, and runs before each prompt. */
const bashLines = [
  begin,
  ...Object.entries(historyVariables).map(([name, value]) => `export ${name}=${value}`),
  "PROMPT_COMMAND[9]=HISTFILE=/dev/null",
  end,
];

const environmentLines = [
  begin,
  ...Object.entries(historyVariables).map(([name, value]) => `${name}=${value}`),
  end,
];

/** Whether edgeseal's lines are in the file, all and in this order. */
export const bashHistoryOff = (lines: readonly string[]): boolean =>
  `\n${lines.join("\n")}\n`.includes(`\n${bashLines.join("\n")}\n`);

/** The last word of pam_env.conf's /etc/environment on each of the variables. */
export function variablesIn(lines: readonly string[]): Record<string, string> {
  const values = new Map<string, string>();
  for (const line of lines) {
    const [, name = "", value = ""] = /^\s*(?:export\s+)?([A-Z_]+)=(.*?)\s*$/.exec(line) ?? [];
    if (name in historyVariables) values.set(name, value.replace(/^(["'])(.*)\1$/, "$2"));
  }
  return Object.fromEntries([...values].sort());
}

/** Before all else in bash.bashrc, which ends early where it has nothing to do; after all else in the environment, where the last line counts. */
export const bashHistoriesOff: Step = edit("turn bash's history off", bashFile, bashLines, "first");
export const environmentHistoriesOff: Step = edit(
  "turn the histories of other programs off",
  environmentFile,
  environmentLines,
  "last",
);

/** Steps that take edgeseal's lines out again. */
export const historiesBack: readonly Step[] = [bashFile, environmentFile].map((path) =>
  edit(`take edgeseal's lines out of ${path}`, path, [], "last"),
);

/** Replaces edgeseal's lines in a file of the system's, at once, with its mode and owner. */
function edit(title: string, path: string, lines: readonly string[], where: "first" | "last"): Step {
  const block = lines.length === 0 ? "" : `printf '%s\\n' ${lines.map(quote).join(" ")}`;
  const rest = `awk -v from=${quote(begin)} -v to=${quote(end)} '$0 == from { inside = 1 } !inside { print } $0 == to { inside = 0 }' "$file"`;
  const parts = where === "first" ? [block, rest] : [rest, block];
  return run({
    title,
    script: `set -eu
file=$(readlink -f ${path})
[ -e "$file" ] || { [ -n ${quote(lines.join(""))} ] || exit 0; umask 022; : >"$file"; }
new="$(dirname "$file")/.$(basename "$file").edgeseal-new"
rm -f -- "$new"
trap 'rm -f "$new"' EXIT
cp -p -- "$file" "$new"
{
${parts.filter((each) => each !== "").join("\n")}
} >"$new"
sync -- "$new"
mv -f -- "$new" "$file"
sync -- "$(dirname "$file")"`,
  });
}

/** Shell that prints `USER PATH` of each history file that has something in it. */
export const listHistories = `accounts=$(getent passwd) || exit 1
printf '%s\\n' "$accounts" | while IFS=: read -r user _ _ _ _ home _; do
  [ -d "$home" ] || continue
  for name in ${historyNames.join(" ")}; do
    f=\${home%/}/$name
    if [ -f "$f" ] && [ -s "$f" ]; then printf '%s %s\\n' "$user" "$f"; fi
  done
done`;

/** As that user: in a home root could be led by a link to remove what is not the user's. */
export function removeHistories(histories: Readonly<Record<string, string>>): Step {
  const lines = Object.entries(histories).map(([path, user]) => `take_away ${quote(user)} ${quote(path)}`);
  return run({
    title: `remove ${lines.length === 1 ? "a history file" : `${lines.length} history files`}`,
    script: `set -eu
take_away() {
  uid=$(id -u -- "$1")
  gid=$(id -g -- "$1")
  setpriv --reuid="$uid" --regid="$gid" --clear-groups rm -f -- "$2"
}
${lines.join("\n")}`,
  });
}
