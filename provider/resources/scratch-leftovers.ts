import { quote } from "../device/shell-quote.ts";
import { run, type Step } from "../device/step.ts";
import { formerJournal, plainJournal, scratchMounts } from "./scratch-files.ts";

/*
 * What was written to the plain disk before. What lies below a mount is looked at in a mount namespace of its own, where the parent is seen without what is mounted in it.
 */

/** Files of syslog daemons that may have what services said; not those of logins, mail, cron and the kernel. */
export const syslogFiles = ["syslog", "messages", "user.log", "daemon.log", "debug"] as const;

const parentOf = (path: string): string => path.slice(0, path.lastIndexOf("/")) || "/";

/** Shell that runs `find` with these tests on a directory of the disk that something is mounted over. */
const findBeneath = (path: string, tests: string): string =>
  `unshare --mount --propagation private sh -c 'mount --bind "$1" /mnt && find /mnt/tmp -xdev -mindepth 1 ${tests}' sh ${parentOf(path)}`;

/** Shell that prints which of /tmp and /var/tmp have something below the memory that is mounted there. */
export const beneath = scratchMounts
  .map(
    ({
      path,
    }) => `if awk -v at=${path} '$5 == at { found = 1 } END { exit !found }' /proc/self/mountinfo; then
  found=$(${findBeneath(path, "-print -quit")}) || exit 1
  [ -z "$found" ] || echo ${path}
fi`,
  )
  .join("\n");

/** Shell that prints what else there is. */
export const listLeftovers = `if [ ! -L ${plainJournal} ]; then
  for f in ${plainJournal}/*/*.journal*; do if [ -f "$f" ]; then echo ${plainJournal}; break; fi; done
fi
for f in ${formerJournal}*; do if [ -e "$f" ]; then echo ${formerJournal}; break; fi; done
for f in /var/crash/* /var/crash/.[!.]*; do if [ -f "$f" ]; then echo /var/crash; break; fi; done
for f in ${syslogFiles.map((name) => `/var/log/${name} /var/log/${name}.*`).join(" ")}; do
  if [ -f "$f" ] && [ -s "$f" ] && [ ! -L "$f" ]; then printf '%s\\n' "$f"; fi
done`;

/** Removes what is on the disk below the memory that is mounted there; nobody comes there any more but who had it before. */
export const removeBeneath = (path: string): Step =>
  run({
    title: `remove what is left of ${path} on the disk`,
    script: `set -eu
awk -v at=${path} '$5 == at { found = 1 } END { exit !found }' /proc/self/mountinfo || exit 0
${findBeneath(path, "-delete")}`,
    timeoutSeconds: 600,
  });

/** Removes a journal on the plain disk that nothing has open. */
export const removeJournal = (path: string): Step =>
  run({
    title: `remove the journal that was kept in ${path}`,
    script: `set -eu
[ ! -L ${path} ] || exit 0
users=$(find /proc/[0-9]*/fd -lname '${path}/*' 2>/dev/null | cut -d / -f 3 | sort -u | tr '\\n' ' ') || :
[ -z "$users" ] || { echo "it is in use by: $users(process ids); end them, and run the update again" >&2; exit 1; }
# With what was set aside before it, as mv --backup names it.
rm -rf --one-file-system -- ${path} ${path}.~*~`,
    timeoutSeconds: 600,
  });

export const removeCrashReports: Step = run({
  title: "remove the crash reports in /var/crash",
  precondition: "[ -d /var/crash ] && [ ! -L /var/crash ]",
  script: "find /var/crash -xdev -mindepth 1 -maxdepth 1 -type f -delete",
});

/** Only after what writes them was stopped. */
export const removeSyslogFiles = (paths: readonly string[]): Step =>
  run({
    title: `remove ${paths.length === 1 ? "a file" : `${paths.length} files`} of syslog in /var/log`,
    script: `rm -f -- ${paths.map(quote).join(" ")}`,
  });
