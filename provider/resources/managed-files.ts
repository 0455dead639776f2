import { readFileSync } from "node:fs";
import { sha256Hex } from "../trust/digest.ts";

/*
 * Files that edgeseal keeps on a node: what they must be, what they are, and in what the two differ.
 */

/** A file of ours on a node, as it must be. */
export interface ManagedFile {
  readonly path: string;
  readonly mode: string;
  readonly content: string;
}

/** A program or unit of ours for the device: a file in `on-device/`, so that shellcheck and people read what runs there. */
export const onDevice = (name: string): string =>
  readFileSync(new URL(`on-device/${name}`, import.meta.url), "utf8");

/** How a file of ours is written in the state: mode, owner and digest. */
export const fileMarks = ({ mode, content }: Omit<ManagedFile, "path">): string =>
  `${mode} root:root sha256:${sha256Hex(content)}`;

/** The state of files of ours when all are as they must be. */
export const desiredMarks = (files: readonly ManagedFile[]): Record<string, string> =>
  Object.fromEntries(files.map((each) => [each.path, fileMarks(each)]));

/** Those that are not as they must be. */
export const differingFiles = <F extends ManagedFile>(
  files: readonly F[],
  observed: Readonly<Record<string, string>>,
): readonly F[] => files.filter((each) => observed[each.path] !== fileMarks(each));

/** Whether all of them are as they must be, in words for the state: controls judge it, and can't tell by a digest. */
export const contentOf = (
  files: readonly ManagedFile[],
  observed: Readonly<Record<string, string>>,
): "as declared" | "other" => (differingFiles(files, observed).length === 0 ? "as declared" : "other");

/** Shell that prints the marks of those of the files that are there. Two forks for all of them: each is milliseconds on an emulated node. */
export const readMarks = (paths: readonly string[]): string => `set --
for f in ${paths.join(" ")}; do
  if [ -f "$f" ] && [ ! -L "$f" ]; then set -- "$@" "$f"
  elif [ -e "$f" ] || [ -L "$f" ]; then printf '%s not a regular file\\n' "$f"
  fi
done
[ $# -gt 0 ] || exit 0
marks=$(stat -c '%a %U:%G' -- "$@") && digests=$(sha256sum -- "$@") || exit 1
newline='
'
for f; do
  printf '%s %s sha256:%s\\n' "$f" "\${marks%%"$newline"*}" "\${digests%% *}"
  marks=\${marks#*"$newline"} digests=\${digests#*"$newline"}
done`;

/** What `readMarks` printed, by path. The paths have no spaces. */
export function parseMarks(output: string): Record<string, string> {
  const lines = output.split("\n").filter((line) => line !== "");
  return Object.fromEntries(
    lines.map((line): [string, string] => {
      const [path = "", mode = "", ...rest] = line.split(" ");
      return [path, [/^[0-7]{1,4}$/.test(mode) ? mode.padStart(4, "0") : mode, ...rest].join(" ")];
    }),
  );
}
