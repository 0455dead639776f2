import { quote } from "../device/shell-quote.ts";
import { directory, run, type Step } from "../device/step.ts";
import { PlanRefused } from "../resource.ts";
import { inferenceUnit } from "./container-process.ts";
import type { InferenceContainerInputs } from "./inference-container-inputs.ts";
import { notByItsList } from "./inference-container-observation.ts";
import { asService } from "./inference-container-podman.ts";
import type { InferenceContainerState } from "./inference-container-state.ts";
import { emptyHome, programDirectory, unitSeconds, userOf } from "./inference-container-unit.ts";

/*
 * The user that a service runs as, and what others run as that user.
 */

const nologin = "/usr/sbin/nologin";

/** What the account has to be. */
export function desiredAccount({
  name,
  storage,
}: InferenceContainerInputs): Pick<
  InferenceContainerState,
  "account" | "groups" | "groupMembers" | "subordinateIds" | "lingering" | "directories"
> {
  const user = userOf(name);
  return {
    account: { uid: "its own", group: user, home: emptyHome, shell: nologin, password: "locked" },
    groups: [],
    groupMembers: [],
    subordinateIds: [],
    lingering: false,
    directories: { [emptyHome]: "0755 root:root", [storage]: `0700 ${user}:${user}` },
  };
}

/** Whether one of these properties of a state differs. */
export type Concerns = (...properties: readonly (keyof InferenceContainerState)[]) => boolean;

/**
 * A number that others have as well: files and processes of theirs can't be told from the service's, and whatever is done to those would be done to theirs.
 * @throws PlanRefused
 */
export function requireOwnUser(
  { name }: InferenceContainerInputs,
  { account }: InferenceContainerState,
): void {
  const { uid } = account;
  if (uid === undefined || uid === "its own") return;
  const user = userOf(name);
  throw new PlanRefused(
    `the user id of ${user} is ${uid}`,
    `see who changed it, stop ${inferenceUnit(name)}, and remove the line of ${user} from /etc/passwd (vipw): the next update makes the user anew`,
  );
}

/**
 * Others in the service's group by their primary group, or by a group of the same number: no list of members keeps them out, and neither is edgeseal's to change.
 * @throws PlanRefused
 */
export function requireOwnGroup(
  { name }: InferenceContainerInputs,
  { groupMembers }: InferenceContainerState,
): void {
  const others = groupMembers.filter((each) => each.includes(notByItsList));
  if (others.length === 0) return;
  throw new PlanRefused(
    `in the group ${userOf(name)}, which may talk to the server: ${others.join(" and ")}`,
    "see who changed it, and give such a user another primary group (usermod --gid), such a group another number (groupmod --gid)",
  );
}

/** Whether nobody but the service could have put something in its storage. Only then is anything in it believed: nothing there is verified again. */
export function isOwnStorage(
  { name, storage }: InferenceContainerInputs,
  { directories }: InferenceContainerState,
): boolean {
  const user = userOf(name);
  const [mode = "", owner] = (directories[storage] ?? "").split(" ");
  return owner === `${user}:${user}` && (Number.parseInt(mode, 8) & 0o022) === 0;
}

/** Before the user is made: with a number that was free, it would own what others left. */
function emptyStorage(inputs: InferenceContainerInputs, state: InferenceContainerState): readonly Step[] {
  const { name, storage } = inputs;
  if (!(storage in state.directories) || isOwnStorage(inputs, state)) return [];
  const user = userOf(name);
  const unit = inferenceUnit(name);
  return [
    run({
      title: `empty ${storage}, in which others could write`,
      // It is root's until it is empty, so that a step that is cut off is done again.
      script: `set -eu
${onVolume(storage)}
case $(stat -c '%U:%G %A' -- ${quote(storage)}) in '${user}:${user} d'????-??-?) exit 0 ;; esac
${unit in state.units ? `systemctl stop ${unit}\n` : ""}if [ -L ${quote(storage)} ]; then rm -f -- ${quote(storage)}; exit 0; fi
chown root:root -- ${quote(storage)}
chmod 0700 -- ${quote(storage)}
find ${quote(storage)} -xdev -mindepth 1 -delete`,
      timeoutSeconds: 600,
    }),
  ];
}

/** Never beside the volume: what belongs on it would be in the clear. */
const onVolume = (storage: string): string => `at=${quote(storage)}
while [ ! -d "$at" ]; do at=\${at%/*}; done
[ "$(stat -c %m -- "\${at:-/}")" != / ] || { echo "$at is on no mounted volume" >&2; exit 1; }`;

/** Steps after which the user is there, and is nobody else's way in. */
export function accountSteps(
  inputs: InferenceContainerInputs,
  state: InferenceContainerState,
  concerns: Concerns,
): readonly Step[] {
  const { name, storage } = inputs;
  const user = userOf(name);
  const wanted = desiredAccount(inputs);
  return [
    ...(state.directories[emptyHome] === wanted.directories[emptyHome]
      ? []
      : [
          directory({ title: `make ${programDirectory}`, path: programDirectory, mode: "0755" }),
          directory({
            title: `make ${emptyHome}, the home of services, in which nothing is`,
            path: emptyHome,
            mode: "0755",
          }),
        ]),
    ...emptyStorage(inputs, state),
    ...(Object.entries(wanted.account).some(([key, value]) => key !== "home" && state.account[key] !== value)
      ? [
          run({
            title: `make the user ${user}, who can't log in`,
            script: `set -eu
getent group ${user} >/dev/null || groupadd --system ${user}
if getent passwd ${user} >/dev/null; then usermod --gid ${user} --shell ${nologin} --lock ${user}
else useradd --system --gid ${user} --home-dir ${emptyHome} --no-create-home --shell ${nologin} ${user}; fi`,
          }),
        ]
      : []),
    ...(concerns("groups", "groupMembers")
      ? [
          run({
            title: `take ${user} out of every other group, and everybody out of its own`,
            script: `set -eu
usermod --groups '' ${user}
gpasswd --members '' ${user}`,
          }),
        ]
      : []),
    ...(concerns("subordinateIds")
      ? [
          run({
            title: `take back the subordinate ids of ${user}`,
            script: `for f in /etc/subuid /etc/subgid; do [ ! -f "$f" ] || sed -i '/^${user}:/d' "$f" || exit 1; done`,
          }),
        ]
      : []),
    ...(concerns("lingering")
      ? [
          run({
            title: `have systemd keep no manager for ${user}`,
            script: `set -eu
loginctl disable-linger ${user} || rm -f /var/lib/systemd/linger/${user}
systemctl stop "user@$(id -u ${user}).service"`,
          }),
        ]
      : []),
    ...(state.directories[storage] === wanted.directories[storage]
      ? []
      : [
          run({
            title: `make ${storage}, the service's own`,
            script: `set -eu
umask 022
${onVolume(storage)}
mkdir -p -- ${quote(storage)}
chown ${user}:${user} -- ${quote(storage)}
chmod 0700 -- ${quote(storage)}`,
          }),
        ]),
  ];
}

/** The user goes, and the group, unless it is another user's primary group by now: then it stays, which lets nobody in to anything, and that is said. */
export function removeAccount(
  { name }: InferenceContainerInputs,
  { groupMembers }: InferenceContainerState,
): readonly Step[] {
  const user = userOf(name);
  const others = `gid=$(getent group ${user} | cut -d: -f3)
others=$([ -z "$gid" ] || getent passwd | awk -F: -v g="$gid" '$4 == g { print $1 }')`;
  return [
    run({
      title: `remove the user ${user}`,
      script: `set -eu
! getent passwd ${user} >/dev/null || userdel ${user}
${others}
[ -z "$gid" ] || [ -n "$others" ] || groupdel ${user}`,
    }),
    ...(groupMembers.some((each) => each.includes(notByItsList))
      ? [
          run({
            title: `see whether the group ${user} is gone`,
            script: `${others}
[ -z "$others" ] || { echo "the group ${user} stays: it is the primary group of" $others >&2; exit 1; }`,
            onFailure: "warn",
          }),
        ]
      : []),
  ];
}

/** What is in storage stays, and is root's alone: the number of a user who is removed may become another's. */
export function disownStorage(
  { storage }: InferenceContainerInputs,
  { directories }: InferenceContainerState,
): readonly Step[] {
  if (!(storage in directories)) return [];
  return [
    run({
      title: `give ${storage} to root, who alone gets in`,
      script: `set -eu
[ ! -L ${quote(storage)} ] || exit 0
chown root:root -- ${quote(storage)}
chmod 0700 -- ${quote(storage)}`,
    }),
  ];
}

/** Shell that ends processes of the service's user. @param which prints `$p`, which is in the control group `$cgroup`, where it is one of them */
const endProcesses = (user: string, which: string): string => `uid=$(id -u ${user})
# Whatever was read before: never another user's, and never root's.
[ "$uid" -gt 0 ] && [ "$(getent passwd | awk -F: -v u="$uid" '$3 == u' | wc -l)" -eq 1 ] ||
  { echo "the user id $uid of ${user} is not its own alone" >&2; exit 1; }
listed() {
  for p in $(pgrep -U "$uid"); do
    # One that ended meanwhile is none.
    { read -r cgroup <"/proc/$p/cgroup"; } 2>/dev/null || continue
    ${which}
  done
}
tries=0
while pids=$(listed) && [ -n "$pids" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 50 ] || { echo "processes of ${user} come back: see what starts them" >&2; exit 1; }
  kill -KILL $pids 2>/dev/null || :
  sleep 0.1
done`;

/**
 * What others run as the service's user, or in its storage, ends. The service goes on: whether it can be started anew is not known yet. Before an image is taken, which such a process could change
 * once it is in storage.
 */
export function endForeign(
  { name, storage }: InferenceContainerInputs,
  state: InferenceContainerState,
): readonly Step[] {
  if (state.foreignContainers.length === 0 && state.foreignProcesses.length === 0) return [];
  const user = userOf(name);
  const podman = (...words: readonly string[]): string => asService({ name, storage }, "remove", words);
  return [
    run({
      title: `end what ${user} runs beside its service, and remove its other containers`,
      script: `set -eu
${endProcesses(user, `case $cgroup/ in */${inferenceUnit(name)}/*) ;; *) echo "$p" ;; esac`)}
containers=$(${podman("ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}")})
others=$(printf '%s\\n' "$containers" | awk '$2 != "${user}" { print $1 }')
[ -z "$others" ] || { ${podman("rm", "--force")} $others >/dev/null; }`,
      timeoutSeconds: unitSeconds,
    }),
  ];
}

/** The home of a user who has another. usermod takes no other while anything runs as that user, the service too: so only once all else is there, and the start is next. */
export function moveHome(
  { name }: InferenceContainerInputs,
  { account }: InferenceContainerState,
): readonly Step[] {
  if (account.home === undefined || account.home === emptyHome) return [];
  const user = userOf(name);
  return [
    run({
      title: `stop whatever runs as ${user}, and give it the home in which nothing is`,
      script: `set -eu
systemctl stop ${inferenceUnit(name)}
${endProcesses(user, 'echo "$p"')}
usermod --home ${emptyHome} ${user}`,
      timeoutSeconds: unitSeconds,
    }),
  ];
}
