import { control, holdsUnknown, pass, unknown, verdict, violation, type Judgement } from "./control.ts";
import { blockTypes, type BlockName, type JudgedNode, type RawBlock } from "./node.ts";
import { whereServing } from "./serving.ts";

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

/** Namespaces that have to be the container's own, as they are listed in byte order. */
const ownNamespaces = "cgroup ipc mnt net pid user uts";

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
            ...(devices.length === 0 || variant === "hailo" ? [] : [`added devices: ${devices.join(", ")}`]),
          ],
          "a system user of its own, no capability, no network, root file system read-only",
        );
      },
    },
    observed: {
      reads: [
        "health",
        "confinement",
        "groups",
        "subordinateIds",
        "foreignContainers",
        "foreignProcesses",
        "unitOverrides",
      ],
      judge: (state) => {
        const { groups, subordinateIds, foreignContainers, foreignProcesses, unitOverrides } = state;
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
              }),
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
    title: "What the container takes of memory, processes and scratch space is limited, and it has no swap",
    mend: "give `inference` a `memoryMaxMiB` that the node's memory holds (docs/resources/inference-container.md)",
    block: "inference",
    declared: {
      reads: ["memoryMaxMiB", "tasksMax", "tmpMiB"],
      judge: ({ memoryMaxMiB, tasksMax, tmpMiB }) =>
        pass(`${memoryMaxMiB} MiB of memory, ${tasksMax} tasks, ${tmpMiB} MiB of /tmp`),
    },
    observed: {
      reads: ["health", "confinement"],
      judge: (state) =>
        whereServing(state, ({ confinement }) =>
          verdict(
            differing(confinement, {
              memoryMax: /^\d+ MiB$/,
              swapMax: "0 MiB",
              tasksMax: /^\d+$/,
              writable: /^\/run\/inference, \/tmp of \d+ MiB without exec$/,
            }),
            `memory ${confinement.memoryMax ?? ""}, swap ${confinement.swapMax ?? ""}, ${confinement.tasksMax ?? ""} tasks; it can write to ${confinement.writable ?? ""}`,
          ),
        ),
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
        beside(node, "seccompProfile", ({ additionalSyscalls }) =>
          verdict(
            [
              ...(confinement.seccomp === "profile"
                ? []
                : [`inference.confinement.seccomp is ${JSON.stringify(confinement.seccomp)}`]),
              ...textsIn(additionalSyscalls).map((call) => `system call allowed beyond the profile: ${call}`),
            ],
            "denied is what is not listed; nothing added to the list",
          ),
        ),
    },
    observed: {
      reads: ["health", "confinement"],
      judge: (state, node) =>
        whereServing(state, ({ confinement }) =>
          beside(node, "seccompProfile", ({ defaultAction, dangerousCalls }) =>
            verdict(
              [
                ...differing(confinement, { seccomp: "profile" }),
                ...(defaultAction === "EPERM"
                  ? []
                  : [`what the profile does not list: ${String(defaultAction)}`]),
                ...textsIn(dangerousCalls).map((call) => `the profile lets ${call} through`),
              ],
              "seccomp filter mode in the process, with the profile's filter on top of the unit's; the profile denies what it does not list",
            ),
          ),
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
        beside(node, "appArmorProfile", () =>
          verdict(
            confinement.appArmor === "profile"
              ? []
              : [`inference.confinement.appArmor is ${JSON.stringify(confinement.appArmor)}`],
            "whatever the container runs is confined by the profile of its service",
          ),
        ),
    },
    observed: {
      reads: ["health", "confinement"],
      judge: (state, node) =>
        whereServing(state, ({ confinement }) =>
          beside(node, "appArmorProfile", ({ loadedPolicy, overrides }) =>
            verdict(
              [
                ...differing(confinement, { appArmor: /^edgeseal-\S+ and edgeseal-\S+ \(enforce\)$/ }),
                ...(loadedPolicy === "as written"
                  ? []
                  : [`the policy in the kernel: ${String(loadedPolicy)}`]),
                ...textsIn(overrides).map((path) => `${path} would keep it from holding`),
              ],
              `label of the process: ${confinement.appArmor ?? ""}; the policy in the kernel is the one that was written`,
            ),
          ),
        ),
    },
  }),
] as const;

/** Judges with a profile that stands beside the container; where a container is looked at alone, with nothing of it. */
function beside(
  { basis, partial, blocks }: JudgedNode,
  block: BlockName & `${string}Profile`,
  judge: (profile: RawBlock) => Judgement,
): Judgement {
  const profile = blocks[block];
  if (holdsUnknown(profile)) return unknown(`${block} is not known at this time`);
  if (typeof profile === "object") return judge(profile as RawBlock);
  if (partial === true) return judge({});
  return violation(
    `the ${basis === "declared" ? "node" : "state"} has no ${blockTypes[block]} beside the container`,
  );
}

/** Texts of a list. */
const textsIn = (list: unknown): readonly string[] => (Array.isArray(list) ? list.map(String) : []);
