import { changeableByOthers } from "./changeable-files.ts";
import { control, holdsUnknown, notRead, unknown, verdict, violation, type Judgement } from "./control.ts";
import { blockTypes, type BlockName, type InputsOf, type JudgedNode, type StateOf } from "./node.ts";
import { askedContainer, whereServing } from "./serving.ts";

const inferenceMend =
  "give the node an `inference` block, and leave its `confinement` at the defaults (docs/resources/inference-container.md)";

/** Faults of what was read of the container's process: each of `wanted` that is not so. */
function differing(
  found: Readonly<Record<string, string>>,
  wanted: Readonly<Record<string, string | RegExp>>,
): readonly string[] {
  return Object.entries(wanted).flatMap(([key, value]) => {
    const is = found[key];
    const fits = typeof value === "string" ? is === value : is !== undefined && value.test(is);
    return fits ? [] : [`${key}: ${is ?? "not there"}`];
  });
}

/** The home of a service's user, in which nothing can be put. */
const noHome = "/usr/lib/edgeseal/no-home";

/** As systemd has a unit that starts at each boot, and one that is only started on demand; nothing stands behind it. */
const unitStates = (units: readonly string[]): Readonly<Record<string, RegExp>> =>
  Object.fromEntries(
    units.map((unit) => [
      unit,
      /-(health|port)\.service$/.test(unit) ? /^static$/ : /^enabled, activ(e|ating)$/,
    ]),
  );

/** No Raspberry Pi 5 has more: what is not below it limits nothing. */
const largestMemoryMiB = 16 * 1024;
const coresPercent = 400;

/** Namespaces that have to be the container's own, as they are listed in byte order. */
const ownNamespaces = "cgroup ipc mnt net pid user uts";

/** The one device that a server is let use: what `hailo` serves from, as the kind itself asks for. */
const isOneAccelerator = (variant: string, devices: readonly string[]): boolean =>
  variant === "hailo" && devices.length === 1 && /^\/dev\/(hailo\d+|h1x-\d+)$/.test(devices[0] ?? "");

/** Point 4: inference in a rootless container with a strict seccomp profile and an AppArmor profile, both in effect. */
export const containerControls = [
  control({
    id: "4.rootless-container",
    point: 4,
    title:
      "Inference runs in a rootless container of its own user: no capability, no network, nothing of the image can be written to",
    mend: inferenceMend,
    block: "inference",
    declared: {
      reads: ["confinement", "variant"],
      judge: ({ confinement, variant }) => {
        const { readOnlyRoot, noNewPrivileges, network, capabilities, devices } = confinement;
        return verdict(
          [
            ...(readOnlyRoot ? [] : ["inference.confinement.readOnlyRoot is false"]),
            ...(noNewPrivileges ? [] : ["inference.confinement.noNewPrivileges is false"]),
            ...(network === "none" ? [] : [`inference.confinement.network is ${JSON.stringify(network)}`]),
            ...(capabilities.length === 0 ? [] : [`added capabilities: ${capabilities.join(", ")}`]),
            ...(devices.length === 0 || isOneAccelerator(variant, devices)
              ? []
              : [`added devices: ${devices.join(", ")}`]),
          ],
          "a system user of its own, no capability, no network, root file system read-only",
        );
      },
    },
    observed: {
      reads: [
        "health",
        "confinement",
        "account",
        "groups",
        "groupMembers",
        "lingering",
        "subordinateIds",
        "content",
        "files",
        "units",
        "volumes",
        "foreignContainers",
        "foreignProcesses",
        "unitOverrides",
      ],
      judge: (state, node) => {
        const { account, groups, groupMembers, lingering, subordinateIds } = state;
        const { content, files, units, volumes } = state;
        const { name = "", storage = "", modelDirectory = "" } = askedContainer(node);
        const { foreignContainers, foreignProcesses, unitOverrides } = state;
        return whereServing(state, ({ confinement }) =>
          verdict(
            [
              ...differing(confinement, {
                user: /^edgeseal-[a-z0-9-]+$/,
                groups: "none",
                capabilities: "none",
                noNewPrivileges: "yes",
                namespaces: ownNamespaces,
                rootFilesystem: "read-only",
                interfaces: "lo",
                mounts: "none but its own",
              }),
              ...differing(account, {
                uid: "its own",
                home: noHome,
                shell: "/usr/sbin/nologin",
                password: "locked",
              }),
              ...(lingering ? ["systemd keeps a manager for its user"] : []),
              ...groupMembers.map((user) => `${user} is in its group`),
              ...differing(units, unitStates([`edgeseal-${name}.service`, ...Object.keys(units)])),
              ...differing(volumes, { [storage]: /, encrypted$/, [modelDirectory]: /, encrypted$/ }),
              ...notAsDeclared("its units and programs are", content),
              ...changeableByOthers(files),
              ...groups.map((group) => `its user is in the group ${group}`),
              ...subordinateIds.map((line) => `its user has subordinate ids: ${line}`),
              ...foreignContainers.map((each) => `another container in its storage: ${each}`),
              ...foreignProcesses.map((each) => `its user runs ${each}`),
              ...unitOverrides.map((path) => `its unit is changed by ${path}`),
            ],
            `user ${confinement.user ?? ""}, no capability, no_new_privs, own ${ownNamespaces}, root file system read-only, no interface but lo`,
          ),
        );
      },
    },
  }),
  control({
    id: "4.limits",
    point: 4,
    title:
      "What the container takes of memory, processor time, processes and scratch space is limited, and it has no swap",
    mend: "give `inference` a `memoryMaxMiB` that the node's memory holds, and a `cpuQuotaPercent` below 400, with 3 `threads` at most (docs/resources/inference-container.md)",
    block: "inference",
    declared: {
      reads: ["memoryMaxMiB", "tasksMax", "tmpMiB", "cpuQuotaPercent"],
      judge: ({ memoryMaxMiB, nodeMemoryMiB, tasksMax, tmpMiB, cpuQuotaPercent }) => {
        if (holdsUnknown(nodeMemoryMiB)) return unknown("inference.nodeMemoryMiB is not known at this time");
        // `tasksMax` is 4096 at most, which is always a limit: the kernel lets a node of 2 GiB have 16384.
        return verdict(
          [
            ...(memoryMaxMiB < (nodeMemoryMiB ?? largestMemoryMiB)
              ? []
              : [
                  `inference.memoryMaxMiB is ${memoryMaxMiB}, and ${nodeMemoryMiB === undefined ? `no Raspberry Pi 5 has more than ${largestMemoryMiB}` : `the node has ${nodeMemoryMiB}`}`,
                ]),
            ...(cpuQuotaPercent < coresPercent
              ? []
              : [
                  `inference.cpuQuotaPercent is ${cpuQuotaPercent}, and the four cores of a Raspberry Pi 5 are ${coresPercent}: nothing is left for ssh`,
                ]),
            ...(tmpMiB < memoryMaxMiB
              ? []
              : [`inference.tmpMiB is ${tmpMiB}, and all that it may have is ${memoryMaxMiB}`]),
          ],
          `${memoryMaxMiB} MiB of memory, ${cpuQuotaPercent} % of a core, ${tasksMax} tasks, ${tmpMiB} MiB of /tmp`,
        );
      },
    },
    observed: {
      reads: ["health", "confinement", "nodeMemory"],
      judge: (state, node) =>
        whereServing(state, ({ confinement, nodeMemory }) => {
          const { memoryMaxMiB, nodeMemoryMiB, tasksMax, tmpMiB, cpuQuotaPercent } = askedContainer(node);
          if (
            memoryMaxMiB === undefined ||
            tasksMax === undefined ||
            tmpMiB === undefined ||
            cpuQuotaPercent === undefined
          )
            return unknown("which limits are declared is not known");
          return verdict(
            [
              ...differing(confinement, {
                memoryMax: `${memoryMaxMiB} MiB`,
                swapMax: "0 MiB",
                tasksMax: String(tasksMax),
                cpuMax: `${cpuQuotaPercent} %`,
                writable: `/run/inference, /tmp of ${tmpMiB} MiB without exec`,
              }),
              ...(nodeMemoryMiB === undefined || nodeMemory === "as declared"
                ? []
                : [`the node's memory: ${nodeMemory}`]),
            ],
            `memory ${confinement.memoryMax ?? ""}, swap ${confinement.swapMax ?? ""}, ${confinement.cpuMax ?? ""} of a core, ${confinement.tasksMax ?? ""} tasks; it can write to ${confinement.writable ?? ""}`,
          );
        }),
    },
  }),
  control({
    id: "4.seccomp",
    point: 4,
    title: "A strict seccomp profile is in effect in the inference process",
    mend: "leave `inference.confinement.seccomp` at `profile` and `inference.additionalSyscalls` empty",
    block: "inference",
    alsoReads: ["seccompProfile"],
    declared: {
      reads: ["confinement"],
      judge: ({ confinement }, node) =>
        beside(node, "seccompProfile", {
          own:
            confinement.seccomp === "profile"
              ? []
              : [`inference.confinement.seccomp is ${JSON.stringify(confinement.seccomp)}`],
          reads: ["additionalSyscalls"],
          faults: ({ additionalSyscalls }: InputsOf<"seccompProfile">) =>
            additionalSyscalls.map((call) => `system call allowed beyond the profile: ${call}`),
          evidence: "denied is what is not listed; nothing added to the list",
        }),
    },
    observed: {
      reads: ["health", "confinement"],
      judge: (state, node) =>
        whereServing(state, ({ confinement }) =>
          beside(node, "seccompProfile", {
            own: differing(confinement, { seccomp: "profile" }),
            reads: ["defaultAction", "dangerousCalls", "trial", "content", "files"],
            faults: ({ defaultAction, dangerousCalls, trial, content, files }: StateOf<"seccompProfile">) => [
              ...(defaultAction === "EPERM" ? [] : [`what the profile does not list: ${defaultAction}`]),
              ...dangerousCalls.map((call) => `the profile lets ${call} through`),
              ...(trial === "done" ? [] : [`the profile was not tried: ${trial}`]),
              ...notAsDeclared("the file of the profile is", content),
              ...changeableByOthers(files),
            ],
            evidence:
              "seccomp filter mode in the process, with the profile's filter on top of the unit's; the profile is the declared one, and denies what it does not list",
          }),
        ),
    },
  }),
  control({
    id: "4.apparmor",
    point: 4,
    title: "An AppArmor profile is in effect in the inference process",
    mend: "leave `inference.confinement.appArmor` at `profile`; AppArmor has to be on in the kernel (`firmware` block)",
    block: "inference",
    alsoReads: ["appArmorProfile"],
    declared: {
      reads: ["confinement"],
      judge: ({ confinement }, node) =>
        beside(node, "appArmorProfile", {
          own:
            confinement.appArmor === "profile"
              ? []
              : [`inference.confinement.appArmor is ${JSON.stringify(confinement.appArmor)}`],
          reads: [],
          faults: () => [],
          evidence: "whatever the container runs is confined by the profile of its service",
        }),
    },
    observed: {
      reads: ["health", "confinement"],
      judge: (state, node) =>
        whereServing(state, ({ confinement }) =>
          beside(node, "appArmorProfile", {
            own: [],
            reads: ["modes", "loadedPolicy", "atBoot", "overrides", "otherDefinitions", "content", "files"],
            faults: ({ modes, loadedPolicy, atBoot, content, ...profile }: StateOf<"appArmorProfile">) => [
              // Both of this service's, and no other's.
              ...differing(confinement, { appArmor: `${Object.keys(modes).sort().join(" and ")} (enforce)` }),
              ...Object.entries(modes).flatMap(([name, mode]) =>
                mode === "enforce" ? [] : [`${name}: ${mode}`],
              ),
              ...(loadedPolicy === "as written" ? [] : [`the policy in the kernel: ${loadedPolicy}`]),
              ...(atBoot === "loaded" ? [] : ["no boot would load the profiles"]),
              ...profile.overrides.map((path) => `${path} would keep it from holding`),
              ...profile.otherDefinitions.map((path) => `${path} defines one of the profiles, too`),
              ...notAsDeclared("the file of the profile is", content),
              ...changeableByOthers(profile.files),
            ],
            evidence: `label of the process: ${confinement.appArmor ?? ""}; the policy in the kernel is the declared one`,
          }),
        ),
    },
  }),
] as const;

const notAsDeclared = (what: string, content: string): readonly string[] =>
  content === "as declared" ? [] : [`${what} not as declared`];

/** How a container is judged with a profile. */
interface Beside<T> {
  /** Faults of the container itself. */
  readonly own: readonly string[];
  /** What the judgement reads of the profile. */
  readonly reads: readonly (keyof NoInfer<T> & string)[];
  readonly faults: (profile: T) => readonly string[];
  readonly evidence: string;
}

/** Judges with a profile that stands beside the container; where a container is looked at alone, nothing is known of it. */
function beside<T>(
  node: JudgedNode,
  block: BlockName & `${string}Profile`,
  { own, reads, faults, evidence }: Beside<T>,
): Judgement {
  const profile = node.blocks[block];
  if (profile === undefined)
    return node.partial === true
      ? verdict(own, evidence)
      : violation(
          `the ${node.basis === "declared" ? "node" : "state"} has no ${blockTypes[block]} beside the container`,
        );
  if (holdsUnknown(profile)) return unknown(`${block} is not known at this time`);
  return (
    notRead(node, block, profile, reads) ?? verdict([...own, ...faults(profile as unknown as T)], evidence)
  );
}
