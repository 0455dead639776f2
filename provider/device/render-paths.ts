import { createHash } from "node:crypto";
import { posix } from "node:path";
import { quote } from "./shell-quote.ts";
import type { DirectoryStep, FileStep, RemoveStep } from "./step.ts";

/*
 * Files, directories and their removal, as shell that root can run in directories that others may write.
 *
 * Root that writes by path follows whatever a less trusted user put on the way there (CWE-59, CWE-367). So a step first walks into the parent
 * directory, component by component, and from then on only names entries of its working directory: nobody can exchange that underfoot. A symbolic
 * link on the way counts only when root owns both it and the directory it lies in (`/var/run`, `/lib`); the last component is never followed.
 */

/** Ends the step with a message on standard error. */
export const failFunction = `fail() { printf '%s\\n' "$*" >&2; exit 1; }`;

const enterFunction = `enter() {
  cd -P /
  rest=\${1#/}
  while [ -n "$rest" ]; do
    part=\${rest%%/*}
    case $rest in */*) rest=\${rest#*/} ;; *) rest= ;; esac
    if [ -L "./$part" ]; then
      [ "$(stat -c %u .)$(stat -c %u "./$part")" = 00 ] || fail "\${PWD%/}/$part is a symbolic link that not only root can change: not followed"
      [ -d "./$part" ] || fail "the symbolic link \${PWD%/}/$part does not lead to a directory"
      cd -P "./$part"
    else
      [ -d "./$part" ] || { missing=\${PWD%/}/$part; return 1; }
      expected=\${PWD%/}/$part
      cd -P "./$part"
      [ "$PWD" = "$expected" ] || fail "$expected was exchanged while it was entered"
    fi
  done
}`;

/** What a script begins with that walks into directories by `enter`. */
export const prelude = `set -eu\nunset CDPATH\numask 077\n${failFunction}\n${enterFunction}\n`;

interface SplitPath {
  readonly directory: string;
  readonly name: string;
}

/**
 * @throws TypeError for a path that is not absolute and normal, or is the root itself.
 */
export function split(path: string): SplitPath {
  if (!path.startsWith("/") || posix.normalize(path) !== path || path.endsWith("/") || /[\0\n]/.test(path)) {
    throw new TypeError(
      `'${path}' is not an absolute, normal path (no '.', '..', '//', trailing '/' or line feed)`,
    );
  }
  return { directory: posix.dirname(path), name: posix.basename(path) };
}

/** Octal digits as `stat -c %a` prints them. */
export function modeOf(mode: string): string {
  if (!/^[0-7]{3,4}$/.test(mode)) throw new TypeError(`'${mode}' is not an octal mode such as 0644`);
  return mode.replace(/^0+(?=.)/, "");
}

export function ownerOf(owner = "root:root"): { readonly user: string; readonly group: string } {
  const [, user, group] = /^([A-Za-z0-9_][A-Za-z0-9_.-]*):([A-Za-z0-9_][A-Za-z0-9_.-]*)$/.exec(owner) ?? [];
  if (user === undefined || group === undefined) {
    throw new TypeError(`'${owner}' is not an owner such as root:root`);
  }
  return { user, group };
}

/** Shell condition: the entry has this mode and owner, names and numbers both accepted. */
export function hasAttributes(entry: string, mode: string, owner: string | undefined): string {
  const { user, group } = ownerOf(owner);
  const is = (name: string, format: string): string =>
    /^\d+$/.test(name) ? `%${format}` : `%${format.toUpperCase()}`;
  return `[ "$(stat -c ${quote(`%a ${is(user, "u")} ${is(group, "g")}`)} ${entry})" = ${quote(`${modeOf(mode)} ${user} ${group}`)} ]`;
}

/**
 * The content comes on standard input and is checked by its SHA-256 before it is renamed into place, so that input that was cut off, or a disk that ran
 * full, leaves the old file as it was. All that touches the new file goes through its open descriptor, not its name.
 */
export function renderFile(step: FileStep): string {
  const { directory, name } = split(step.path);
  const { user, group } = ownerOf(step.owner);
  const digest = `${createHash("sha256").update(step.content).digest("hex")}  -`;
  return `${prelude}
enter ${quote(directory)} || fail "the directory $missing does not exist"
name=${quote(`./${name}`)}
new=${quote(`./.${name}.edgeseal-new`)}
digest='${digest}'
if [ -f "$name" ] && ! [ -L "$name" ]; then
  if ${hasAttributes('"$name"', step.mode, step.owner)} && [ "$(sha256sum <"$name")" = "$digest" ]; then exit 0; fi
elif [ -d "$name" ] && ! [ -L "$name" ]; then
  fail ${quote(`${step.path} is a directory`)}
fi
rm -f -- "$new"
trap 'rm -f -- "$new"' EXIT
trap 'exit 143' HUP INT TERM
set -C
exec 4>"$new"
set +C
[ "$(readlink /proc/self/fd/4)" = "\${PWD%/}/\${new#./}" ] || fail "$new was exchanged while it was opened"
chown ${quote(`${user}:${group}`)} /proc/self/fd/4
chmod ${modeOf(step.mode)} /proc/self/fd/4
cat >&4
sync /proc/self/fd/4
[ "$(sha256sum </proc/self/fd/4)" = "$digest" ] || fail ${quote(`the content of ${step.path} did not arrive whole`)}
mv -fT -- "$new" "$name"
trap - EXIT
sync .
`;
}

export function renderRemove(step: RemoveStep): string {
  const { directory, name } = split(step.path);
  return `${prelude}
enter ${quote(directory)} || exit 0
name=${quote(`./${name}`)}
[ -e "$name" ] || [ -L "$name" ] || exit 0
if [ -d "$name" ] && ! [ -L "$name" ]; then rmdir -- "$name"; else rm -f -- "$name"; fi
sync .
`;
}

export function renderDirectory(step: DirectoryStep): string {
  const { directory, name } = split(step.path);
  const { user, group } = ownerOf(step.owner);
  return `${prelude}
enter ${quote(directory)} || fail "the directory $missing does not exist"
name=${quote(`./${name}`)}
if [ -L "$name" ]; then fail ${quote(`${step.path} is a symbolic link, not a directory`)}; fi
if [ -d "$name" ]; then
  if ${hasAttributes('"$name"', step.mode, step.owner)}; then exit 0; fi
else
  if [ -e "$name" ]; then fail ${quote(`${step.path} is there and is not a directory`)}; fi
  mkdir -- "$name"
fi
parent=\${PWD%/}
cd -P "$name"
[ "$PWD" = "$parent/\${name#./}" ] || fail "$name was exchanged while it was entered"
chown ${quote(`${user}:${group}`)} .
chmod ${modeOf(step.mode)} .
sync .
sync ..
`;
}
