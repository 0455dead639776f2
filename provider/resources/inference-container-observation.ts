import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import { quote } from "../device/shell-quote.ts";
import type { Observed } from "../resource.ts";
import { printLoadedPolicy } from "./apparmor-profile-observation.ts";
import { unitDirectories } from "./boot-units.ts";
import { byteOrder, parseFiles, readFiles } from "./config-files.ts";
import { inferenceUnit, readContainerProcesses } from "./container-process.ts";
import {
  confinementOfContainer,
  type AccountIds,
  type StartedFrom,
} from "./inference-container-confinement.ts";
import {
  allUnits,
  lastWords,
  managedFiles,
  recordOf,
  startedFrom,
  unitPath,
} from "./inference-container-files.ts";
import { readRemnants } from "./inference-container-image.ts";
import { parseImage, type InferenceContainerInputs } from "./inference-container-inputs.ts";
import { parseMemory, readMemory } from "./inference-container-memory.ts";
import { parsePlaces, readPlaces } from "./inference-container-places.ts";
import type { InferenceContainerState } from "./inference-container-state.ts";
import { digestOf, otherImages, parseStorage, readStorage } from "./inference-container-storage.ts";
import {
  askProgram,
  emptyHome,
  healthAddress,
  modelFolderOf,
  seccompProfileOf,
  userOf,
} from "./inference-container-unit.ts";
import { contentOf, parseMarks, readMarks } from "./managed-files.ts";

/** The container's first process, as `$p`; nothing is printed when there is none. */
const firstProcess = (unit: string): string => `p= id=
for f in /sys/fs/cgroup/*.slice/${unit}/libpod-payload-*/cgroup.procs /sys/fs/cgroup/*.slice/*.slice/${unit}/libpod-payload-*/cgroup.procs \\
  /sys/fs/cgroup/*.slice/${unit}/libpod-payload-*/*/cgroup.procs /sys/fs/cgroup/*.slice/*.slice/${unit}/libpod-payload-*/*/cgroup.procs; do
  if [ -r "$f" ] && read -r p <"$f"; then id=\${f#*/libpod-payload-} id=\${id%%/*} && break; fi
done`;

/** The probe of one service. */
export function inferenceContainerProbe(
  inputs: InferenceContainerInputs,
): Probe<Observed<InferenceContainerState>> {
  const { name, storage } = inputs;
  const user = userOf(name);
  const unit = inferenceUnit(name);
  const units = allUnits(name);
  const started = startedFrom(name);
  const services = units.filter((each) => each.endsWith(".service"));
  const { address, path, inNamespace } = healthAddress(inputs);
  const ask = `${askProgram} ${address} ${path} 10`;
  return {
    id: `edgeseal:inference:InferenceContainer#${name}`,
    parts: {
      packages: ["podman", "crun"].map((each) => `command -v ${each} >/dev/null || echo ${each}`).join("\n"),
      // All of them: another user may have the same number.
      account: `getent passwd || exit 1
getent shadow ${user} || [ $? -eq 2 ] || exit 1
getent group || exit 1
if [ -e /var/lib/systemd/linger/${user} ]; then echo lingering; fi`,
      subordinate: readFiles(["/etc/subuid", "/etc/subgid"], `$0 ~ /^${user}:/ { emit() }`),
      directories: `for d in ${emptyHome} ${storage}; do if [ -d "$d" ]; then stat -c '%a %U:%G %n' "$d"; fi; done`,
      files: readMarks(managedFiles(inputs).map(({ path: each }) => each)),
      units: `systemctl show -p Id -p LoadState -p UnitFileState -p ActiveState -p SubState -p Result -p NRestarts -p NeedDaemonReload -p FragmentPath -p DropInPaths -p MainPID -p InvocationID ${units.join(" ")} || exit 1
for d in ${unitDirectories.join(" ")}; do
  for f in ${units.map((each) => `"$d/${each}.d"/*.conf`).join(" ")}; do if [ -e "$f" ]; then echo "changed $f"; fi; done
done`,
      record: `is() { if [ ! -e "$1" ]; then echo none; elif cmp -s "$1" "$2"; then echo this; else echo other; fi; }
is ${recordOf(name)} ${unitPath(unit)}
is ${started.unit} ${unitPath(unit)}
is ${started.seccomp} ${seccompProfileOf(name)}
{
${printLoadedPolicy(name)}
} 2>/dev/null | is ${started.appArmor} -
if [ -e ${started.start} ]; then cat ${started.start}; fi`,
      processes: readContainerProcesses(name),
      container: `${firstProcess(unit)}
[ -n "$p" ] || exit 0
echo "id $id"
# The same inode: a file elsewhere has another, and one that was replaced is still mounted.
if [ "/proc/$p/root/models/model.gguf" -ef ${quote(`${modelFolderOf(inputs)}/model.gguf`)} ]; then echo 'model this'; fi
sed 's/^/mount /' "/proc/$p/mountinfo" 2>/dev/null
sed 's/^/net /' "/proc/$p/net/dev" 2>/dev/null
# Not Locked:, which is the process's share of what others have mapped, too (another service with this model).
awk '/^[0-9a-f]+-/ { model = $6 == "/models/model.gguf"; if (model && $7 == "(deleted)") print "model former" }
model && /^Size:/ { size += $2 }
model && /^Rss:/ { resident = $2 }
model && /^VmFlags:.* lo( |$)/ { locked += resident }
END { if (size) print "map Size: " size "\\nmap Locked: " locked + 0 }' "/proc/$p/smaps" 2>/dev/null
c=\${f%/libpod-payload-*}
for k in memory.max memory.swap.max pids.max cpu.max; do if [ -r "$c/$k" ] && read -r v <"$c/$k"; then echo "limit $k $v"; fi; done
main=$(systemctl show -P MainPID ${unit})
grep -s ^Seccomp_filters: "/proc/$main/status" | sed 's/^/main /'
exit 0`,
      storage: readStorage(inputs),
      remnants: readRemnants(inputs),
      owned: `uid=$(id -u ${user} 2>/dev/null) || exit 0
for s in $(grep -lsE "^Uid:.*[[:space:]]$uid([[:space:]]|\\$)" /proc/[0-9]*/status); do
  d=\${s%/status}
  { read -r cgroup <"$d/cgroup" && read -r comm <"$d/comm"; } 2>/dev/null || continue
  echo "$cgroup $comm"
done`,
      health: `${firstProcess(unit)}
if [ -z "$p" ]; then echo 'not running'
elif [ ! -x ${askProgram} ]; then echo 'no answer'
else ${inNamespace ? `nsenter --net="/proc/$p/ns/net" ${ask}` : ask} || :
fi`,
      // Of a server that does not run: what the check before its start said, else podman's or systemd's last words.
      reason: `if systemctl is-active -q ${unit}; then exit 0; fi
if [ -s /run/edgeseal/inference/${name} ]; then cat /run/edgeseal/inference/${name}; exit; fi
${lastWords}
last_words ${unit}`,
      places: readPlaces(inputs),
      memory: readMemory,
      exposure: `command -v systemd-analyze >/dev/null || exit 0
for u in ${services.join(" ")}; do
  if [ -e "/etc/systemd/system/$u" ]; then systemd-analyze security --no-pager "$u" 2>/dev/null | tail -n 1; fi
done`,
    },
    parse: (parts) => ({ outcome: "present", state: parseState(inputs, parts) }),
  };
}

function parseState(
  inputs: InferenceContainerInputs,
  parts: Readonly<Record<string, PartOutput>>,
): InferenceContainerState {
  const { name } = inputs;
  const container = outputOf(parts, "container");
  const record = outputOf(parts, "record").split("\n");
  const [lastGood, ofUnit, seccomp, appArmor] = record.map(recorded);
  const { failure, ...units } = readUnits(
    inputs,
    outputOf(parts, "units"),
    container === "" ? undefined : { copy: ofUnit ?? "none", start: valuesIn(record) },
  );
  const storage = parseStorage(outputOf(parts, "storage"));
  const id = /^id (.*)$/m.exec(container)?.[1] ?? "";
  const running = storage.containers.find((each) => each.id === id);
  const { ids, ...account } = readAccount(userOf(name), outputOf(parts, "account"));
  const files = parseMarks(outputOf(parts, "files"));
  return {
    missingPackages: lines(outputOf(parts, "packages")),
    ...account,
    subordinateIds: [...parseFiles(outputOf(parts, "subordinate"))].flatMap(([path, lines]) =>
      lines.map((line) => `${path}: ${line}`),
    ),
    directories: readDirectories(outputOf(parts, "directories")),
    content: contentOf(managedFiles(inputs), files),
    files,
    ...units,
    health: readHealth(outputOf(parts, "health")),
    reason: outputOf(parts, "reason").trim() || failure,
    lastGood: lastGood ?? "none",
    image: running === undefined ? "" : digestOf(storage, running, parseImage(inputs.image)?.digest),
    model: mountedModel(inputs, container),
    confinement: confinementOfContainer(inputs, outputOf(parts, "processes"), container, {
      ids,
      startedFrom: { seccomp: seccomp ?? "none", appArmor: appArmor ?? "none" },
    }),
    foreignContainers: storage.containers
      .filter((each) => !each.names.includes(userOf(name)))
      .map((each) => `${each.names.join(" ")} of ${digestOf(storage, each)}`)
      .sort(byteOrder),
    foreignProcesses: readForeign(name, outputOf(parts, "owned")),
    leftovers: [...lines(outputOf(parts, "remnants")), ...otherImages(inputs, storage)].sort(byteOrder),
    images: [...new Set(storage.images.flatMap(({ references }) => references))].sort(byteOrder),
    ...parsePlaces(outputOf(parts, "places")),
    nodeMemory: parseMemory(inputs, outputOf(parts, "memory")),
    exposure: readExposure(outputOf(parts, "exposure")),
  };
}

const recorded = (line: string): StartedFrom => (line === "this" || line === "other" ? line : "none");

const lines = (output: string): string[] => output.split("\n").filter(Boolean).sort(byteOrder);

function readHealth(output: string): InferenceContainerState["health"] {
  const said = output.trim();
  if (said === "healthy" || said === "loading" || said === "no answer" || said === "not running") return said;
  throw new UnknownObservation(`the server's health was not told: '${said.slice(0, 120)}'`);
}

// --- the account ---

/** Marks a member of the service's group who is not in the list that such a member could be taken off. */
export const notByItsList = "(not in its list:";

type Account = Pick<InferenceContainerState, "account" | "groups" | "groupMembers" | "lingering">;

function readAccount(user: string, output: string): Account & { readonly ids: AccountIds } {
  const entries = output.split("\n").map((line) => line.split(":"));
  const own = entries.filter(([name]) => name === user);
  // passwd(5) has 7 fields, shadow(5) 9, group(5) 4.
  const passwd = own.find((fields) => fields.length === 7);
  const others = entries.filter(
    ([name, , uid, ...rest]) => rest.length === 4 && name !== user && uid === passwd?.[2],
  );
  const shadow = own.find((fields) => fields.length === 9);
  const groups = entries.filter((fields) => fields.length === 4);
  const members = (fields: readonly string[]): readonly string[] =>
    (fields[3] ?? "").split(",").filter(Boolean);
  const ownGroup = groups.find(([group]) => group === user);
  const alike = groups.filter((fields) => fields !== ownGroup && fields[2] === ownGroup?.[2]);
  const primary = [ownGroup, ...groups].find((fields) => fields?.[2] === passwd?.[3]);
  const number = (text: string | undefined): number | undefined =>
    text === undefined ? undefined : Number(text);
  return {
    ids: { uid: number(passwd?.[2]), gid: number(passwd?.[3]) },
    account:
      passwd === undefined
        ? {}
        : {
            uid:
              Number(passwd[2]) === 0
                ? "root's"
                : others.length === 0
                  ? "its own"
                  : `shared with ${others.map(([name]) => name).join(" and ")}`,
            group: primary?.[0] ?? "unknown",
            home: passwd[5] ?? "",
            shell: passwd[6] ?? "",
            password: /^[!*]/.test(shadow?.[1] ?? "") ? "locked" : "not locked",
          },
    groups: groups
      .filter((fields) => members(fields).includes(user) && fields !== primary)
      .map(([group = ""]) => group)
      .sort(byteOrder),
    groupMembers: [
      ...members(ownGroup ?? []),
      ...entries
        .filter(([name, , , gid, ...rest]) => rest.length === 3 && name !== user && gid === ownGroup?.[2])
        .map(([name = ""]) => `${name} ${notByItsList} it is the user's primary group)`),
      ...alike.flatMap((fields) =>
        members(fields)
          .filter((name) => name !== user)
          .map((name) => `${name} ${notByItsList} in ${fields[0] ?? ""}, a group of the same number)`),
      ),
    ].sort(byteOrder),
    lingering: entries.some(([word, ...rest]) => word === "lingering" && rest.length === 0),
  };
}

function readDirectories(output: string): Record<string, string> {
  return Object.fromEntries(
    output.split("\n").flatMap((line): [string, string][] => {
      const [, mode, owner, path] = /^(\d+) (\S+) (\/.*)$/.exec(line) ?? [];
      return path === undefined ? [] : [[path, `${(mode ?? "").padStart(4, "0")} ${owner ?? ""}`]];
    }),
  );
}

// --- units ---

/** What systemd shows of a unit, `KEY=VALUE` on each line. */
type Shown = ReadonlyMap<string, string>;

const valuesIn = (lines: readonly string[]): Shown =>
  new Map(
    lines.map((line): [string, string] => {
      const equals = line.indexOf("=");
      return [line.slice(0, Math.max(equals, 0)), line.slice(equals + 1)];
    }),
  );

/** Files that a unit is read from beside its own. */
function overridesIn(shown: Shown, unit: string): readonly string[] {
  const fragment = shown.get("FragmentPath") ?? "";
  return [
    ...(shown.get("DropInPaths") ?? "")
      .split(" ")
      .filter((path) => path !== "" && !ofTheDistribution.test(path)),
    ...(fragment === "" || fragment === unitPath(unit) ? [] : [fragment]),
  ];
}

/** What the check before a start kept of the unit. */
interface KeptUnit {
  /** How its copy of the unit's file compares with that file. */
  readonly copy: StartedFrom;
  readonly start: Shown;
}

/** A record counts for the start that it was made at. */
function unitStartedFrom({ copy, start }: KeptUnit, shown: Shown, unit: string): StartedFrom {
  const invocation = shown.get("InvocationID") ?? "";
  if (invocation === "" || start.get("InvocationID") !== invocation) return "none";
  const asRead = overridesIn(start, unit).length === 0 && start.get("NeedDaemonReload") === "no";
  return copy === "this" && !asRead ? "other" : copy;
}

const unitAsItWas: Readonly<Record<StartedFrom, readonly string[]>> = {
  this: [],
  other: ["started from another"],
  none: ["its start left no record"],
};

/** @param kept `undefined` where no container runs. */
function readUnits(
  { name }: InferenceContainerInputs,
  output: string,
  kept: KeptUnit | undefined,
): Pick<InferenceContainerState, "units" | "unitOverrides" | "restarts"> & { readonly failure: string } {
  const blocks = output.split(/\n\n+/).map((block) => valuesIn(block.split("\n")));
  const shown = blocks.filter((block) => block.has("Id"));
  if (shown.length === 0) throw new UnknownObservation("systemd told nothing of the service's units");
  const changed = output.split("\n").flatMap((line) => /^changed (.*)$/.exec(line)?.[1] ?? []);
  const overrides = new Set(changed);
  const units: Record<string, string> = {};
  for (const block of shown) {
    const id = block.get("Id") ?? "";
    const value = (key: string): string => block.get(key) ?? "";
    for (const path of overridesIn(block, id)) overrides.add(path);
    if (value("LoadState") === "not-found") continue;
    units[id] = [
      value("LoadState") === "masked" ? "masked" : value("UnitFileState"),
      // What is started on demand, or by a timer, comes and goes.
      ...(isOnDemand(id) ? [] : [value("ActiveState")]),
      ...(value("NeedDaemonReload") === "yes" ? ["changed since systemd read it"] : []),
      ...(id === inferenceUnit(name) && kept !== undefined
        ? unitAsItWas[unitStartedFrom(kept, block, id)]
        : []),
    ].join(", ");
  }
  const service = shown.find((block) => block.get("Id") === inferenceUnit(name));
  const active = service?.get("ActiveState") === "active";
  const result = service?.get("Result") ?? "";
  return {
    units,
    unitOverrides: [...overrides].sort(byteOrder),
    restarts: Number(service?.get("NRestarts") ?? 0),
    failure: active
      ? ""
      : result === "success" || result === ""
        ? "it was not started, or was stopped"
        : `systemd says: ${result}`,
  };
}

/** Drop-ins for all services of a system are its distribution's. */
const ofTheDistribution = /^\/usr\/lib\/systemd\/system\/(service|socket|timer)\.d\//;

/** Units that are not to be there all the time. */
export const isOnDemand = (unit: string): boolean => /-(health|port)\.service$/.test(unit);

// --- what runs ---

/** The model by the folder that is mounted, whatever the unit says; and that of the inputs only where its file is the one that is mounted, and mapped. */
function mountedModel({ model }: InferenceContainerInputs, container: string): string {
  const mount = container
    .split("\n")
    .find((line) => line.startsWith("mount ") && line.split(" ")[5] === "/models");
  const folder = mount?.split(" ")[4]?.split("/").at(-1) ?? "";
  const mounted = /^[0-9a-f]{64}$/.test(folder) ? `sha256:${folder}` : folder;
  const isItsFile = /^model this$/m.test(container) && !/^model former$/m.test(container);
  return mounted === model && !isItsFile ? `${mounted}, of another file` : mounted;
}

function readForeign(name: string, output: string): string[] {
  const own = [inferenceUnit(name), `${userOf(name)}-`];
  return output
    .split("\n")
    .filter((line) => line !== "")
    .flatMap((line) => {
      // 0::/system.slice/edgeseal-inference.service/libpod-payload-... llama-server
      const [, cgroup = "", command = ""] = /^\d*:[^:]*:(\S+) (.*)$/.exec(line) ?? [];
      const ours = cgroup.split("/").some((part) => part === own[0]);
      return ours ? [] : [`${command.replaceAll(/[^\x20-\x7e]/g, "?")} in ${cgroup}`];
    })
    .sort(byteOrder);
}

const readExposure = (output: string): Record<string, string> =>
  Object.fromEntries(
    [...output.matchAll(/Overall exposure level for (\S+): ([\d.]+)/g)].map(([, unit = "", figure = ""]) => [
      unit,
      figure,
    ]),
  );
