import { UnknownObservation } from "../device/probe.ts";
import { scratchMounts } from "./scratch-files.ts";

/*
 * Where /tmp and /var/tmp are, and who still uses them on the disk: nothing is mounted over files that are in use.
 */

/** A line of proc_pid_mountinfo(5). */
interface Mount {
  readonly device: string;
  /** Path within the file system that is mounted. */
  readonly root: string;
  readonly point: string;
  readonly options: string;
  readonly type: string;
  readonly source: string;
  readonly superOptions: string;
}

/** Shell that prints the mounts, an empty line, and what other processes have mounted of some `tmp`, by device and path. */
export const whereMounted = `cat /proc/self/mountinfo || exit 1
echo
# What ends meanwhile is no error.
{ cat /proc/[0-9]*/mountinfo 2>/dev/null || :; } | awk '$4 ~ /\\/tmp(\\/|$)/ { print $3, $4 }' | sort -u`;

/** Shell that prints \`PATH PID NAME\` of each process with a file open in a /tmp or /var/tmp that is no memory, and \`PATH socket NAME\` of sockets there. */
export const holding = `for dir in ${scratchMounts.map(({ path }) => path).join(" ")}; do
  [ "$(stat -f -c %T -- "$dir")" != tmpfs ] || continue
  find /proc/[0-9]*/fd /proc/[0-9]*/cwd /proc/[0-9]*/exe -maxdepth 1 '(' -lname "$dir" -o -lname "$dir/*" ')' -printf '%p\\n' 2>/dev/null |
    cut -d / -f 3 | sort -u | while read -r pid; do
      name=$(cat "/proc/$pid/comm" 2>/dev/null) || continue
      printf '%s %s %s\\n' "$dir" "$pid" "$name"
    done
  awk -v dir="$dir/" 'index($8, dir) == 1 { print substr(dir, 1, length(dir) - 1), "socket", $8 }' /proc/net/unix
done`;

/** Reads what `whereMounted` printed. */
export function parseMounts(output: string) {
  const [first = "", rest = ""] = output.split("\n\n");
  const mounts = first
    .split("\n")
    .filter((line) => line !== "")
    .map(parseMount);
  /** The mount that a path is in. Of several at one place the last one counts. */
  const mounted = (path: string): Mount => {
    const best = mounts
      .filter(({ point }) => point === "/" || path === point || path.startsWith(`${point}/`))
      .reduce<Mount | undefined>(
        (a, b) => (a === undefined || b.point.length >= a.point.length ? b : a),
        undefined,
      );
    if (best === undefined)
      throw new UnknownObservation(`the device does not say what is mounted at ${path}`);
    return best;
  };
  const sourceOf = (path: string): string => {
    const { type, source } = mounted(path);
    return type === "tmpfs" ? type : source;
  };
  const elsewhere = rest
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [device = "", root = ""] = line.split(" ");
      return { device, root };
    });
  return { mounted, sourceOf, elsewhere };
}

function parseMount(line: string): Mount {
  const [before = "", after] = line.split(" - ");
  const [, , device, root, point, options] = before.split(" ");
  const [type, source, superOptions] = after?.split(" ") ?? [];
  if (
    device === undefined ||
    root === undefined ||
    point === undefined ||
    options === undefined ||
    type === undefined ||
    source === undefined ||
    superOptions === undefined
  )
    throw new UnknownObservation(`unexpected line in mountinfo: '${line.slice(0, 120)}'`);
  return { device, root, point, options, type, source, superOptions };
}

/** Who has a part of /tmp or /var/tmp on the disk mounted for itself, as services with PrivateTmp= have: also below the memory that was mounted there since. */
export function privateUsers(
  mounted: (path: string) => Mount,
  elsewhere: readonly { readonly device: string; readonly root: string }[],
): readonly string[] {
  return scratchMounts.flatMap(({ path }) => {
    const { device, root, point } = mounted(path.slice(0, path.lastIndexOf("/")) || "/");
    const onDisk = `${root === "/" ? "" : root}${point === "/" ? path : path.slice(point.length)}`;
    return elsewhere
      .filter(
        (each) => each.device === device && (each.root === onDisk || each.root.startsWith(`${onDisk}/`)),
      )
      .map((each) => {
        const service = /\/systemd-private-[0-9a-f]{32}-(.+)-[A-Za-z0-9]{6}(?:\/|$)/.exec(each.root)?.[1];
        return `${path}: ${service ?? each.root}`;
      });
  });
}
