import { UnknownObservation } from "../device/probe.ts";

/** Where the firmware's files are on every system that runs on a Pi 5. */
export const bootFolder = "/boot/firmware";

/**
 * Shell that prints what config.txt says and names, a name and a content a line. In base64, since neither line ends nor bytes that are no UTF-8 may change on the way. Names come from the files:
 * only what can't lead elsewhere is followed.
 */
export const bootFiles = `
if awk '$1 !~ /^#/ && $2 == "${bootFolder}" { found = 1 } END { exit !found }' /etc/fstab 2>/dev/null && ! mountpoint -q ${bootFolder}; then
  echo '${bootFolder} is in /etc/fstab and is not mounted' >&2
  exit 1
fi
cd ${bootFolder} 2>/dev/null && [ -e config.txt ] || exit 66
set --
words() { sed -n "$1" $2 2>/dev/null | tr -d '\\r' | grep -xE '[A-Za-z0-9][A-Za-z0-9._/-]*' | grep -vF .. | sort -u; }
configs=config.txt
for depth in 1 2 3 4 5 6 7 8; do
  more=$(words 's/^[[:blank:]]*include[[:blank:]]\\{1,\\}\\([^[:blank:]]*\\)[[:blank:]]*$/\\1/p' "$configs")
  more=$(printf '%s\\n' config.txt $more | sort -u | head -n 32)
  [ "$more" != "$configs" ] || break
  configs=$more
done
prefixes=$(words 's/^[[:blank:]]*os_prefix[[:blank:]]*=[[:blank:]]*//p' "$configs")
names=$(words 's/^[[:blank:]]*cmdline[[:blank:]]*=[[:blank:]]*//p' "$configs")
for prefix in '' $prefixes; do for name in cmdline.txt $names; do set -- "$@" "$prefix$name"; done; done
for name in $configs "$@" tryboot.txt autoboot.txt; do
  [ -f "$name" ] || continue
  size=$(wc -c <"$name") || exit 1
  if [ "$size" -gt 65536 ]; then echo "$name has $size bytes" >&2; exit 1; fi
  text=$(base64 -w 0 <"$name") || exit 1
  printf '%s %s\\n' "$name" "$text"
done
`;

/** What that printed; a character for a byte. */
export function parseBootFiles(output: string): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  for (const line of output.split("\n").filter((each) => each !== "")) {
    const [name = "", text, ...more] = line.split(" ");
    if (text === undefined || more.length > 0 || !/^[A-Za-z0-9+/]*=*$/.test(text)) {
      throw new UnknownObservation(`unexpected line in a listing of ${bootFolder}: '${line.slice(0, 120)}'`);
    }
    files.set(name, Buffer.from(text, "base64").toString("latin1"));
  }
  return files;
}
