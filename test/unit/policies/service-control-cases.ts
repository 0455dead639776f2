import { unknownValue, type JudgedNode } from "../../../policies/node.ts";
import { declared, observed } from "./cases.ts";
import { fail, pass, unclear, type Case } from "./control-case.ts";
import { goodServiceInputs, goodServiceStates, image, modelDigest } from "./service-cases.ts";

/* Cases of the controls over what serves a model, and over what keeps its prompts in memory. */

/** Loosened, as somebody would declare it. */
const loose = (confinement: object, more: object = {}): JudgedNode =>
  declared({
    inference: { ...more, confinement: { ...goodServiceInputs.inference.confinement, ...confinement } },
  });

/** A container whose process was found to be confined otherwise; `undefined` for what could not be read. */
const found = (confinement: Readonly<Record<string, string | undefined>>, more: object = {}): JudgedNode =>
  observed({
    inference: { ...more, confinement: { ...goodServiceStates.inference.confinement, ...confinement } },
  });

const noBlock = "the node has no `inference` block (edgeseal:inference:InferenceContainer)";
/** Of every control over the container: what is not there, or does not run, is not confined. */
const always: readonly Case[] = [
  fail("no block", declared({ inference: undefined }), noBlock),
  fail(
    "not in the state",
    observed({ inference: undefined }),
    "the state has no edgeseal:inference:InferenceContainer of this node",
  ),
  fail(
    "nothing runs",
    observed({
      inference: {
        health: "not running",
        reason: "volume-not-mounted: /srv/models is not on a mounted volume",
        confinement: {},
        image: "",
      },
    }),
    "nothing runs: volume-not-mounted: /srv/models is not on a mounted volume",
  ),
  fail(
    "nothing runs, and nobody knows why",
    observed({ inference: { health: "not running", reason: undefined, confinement: {}, image: "" } }),
    "nothing runs: no reason is known",
  ),
  unclear(
    "not yet known",
    observed({ inference: { health: unknownValue } }),
    "inference.health is not known at this time",
  ),
];

/** The container alone, as the policy pack judges each resource when it is registered. */
const alone = (): JudgedNode => ({
  ...declared(),
  partial: true,
  blocks: { inference: goodServiceInputs.inference },
});

const inMemory =
  "/tmp and /var/tmp in memory, no log on the plain disk, no histories, nothing left from before";
const confined =
  "user edgeseal-inference, no capability, no_new_privs, own cgroup ipc mnt net pid user uts, root file system read-only, no interface but lo";
const limited =
  "memory 1024 MiB, swap 0 MiB, 350 % of a core, 64 tasks; it can write to /run/inference, /tmp of 16 MiB without exec";
const label = "edgeseal-inference and edgeseal-inference-podman (enforce)";
const { modes } = goodServiceStates.appArmorProfile;
const { account } = goodServiceStates.inference;
const check = "/usr/lib/edgeseal/check-inference";
const otherDigest = `sha256:${"9".repeat(64)}`;

/** What serves, on a node whose image policy has these rules. */
const underRules = (rules: object): JudgedNode => observed({ imagePolicy: { rules } });
const signedFor = (what: string): string => `signed by sha256:${"5a".repeat(32)} for ${what}`;

export const serviceControlCases: Readonly<Record<string, readonly Case[]>> = {
  "3.memory-locked": [
    pass("locked", declared(), "inference.confinement.memoryLock is true"),
    fail("not locked", loose({ memoryLock: false }), "inference.confinement.memoryLock is false"),
    fail(
      "a server that can't",
      declared({ inference: { variant: "ollama" } }),
      "ollama does not lock its memory",
    ),
    pass("all of it", observed(), "the whole model is locked; its control group may not swap"),
    fail("a part", found({ modelLocked: "part" }), "of the model is locked: part; it may swap 0 MiB"),
    fail("swap", found({ swapMax: "max" }), "of the model is locked: all; it may swap max"),
    fail(
      "not read",
      found({ modelLocked: undefined, swapMax: undefined }),
      "of the model is locked: unknown; it may swap an unknown amount",
    ),
    ...always,
  ],
  "3.scratch-in-memory": [
    pass("in memory", declared(), inMemory),
    pass("a journal in memory", declared({ scratch: { journal: "volatile" } }), inMemory),
    fail(
      "no block",
      declared({ scratch: undefined }),
      "the node has no `scratch` block (edgeseal:memory:Scratch)",
    ),
    fail(
      "loose, in every way there is",
      declared({ scratch: { syslog: "keep", historyFiles: "keep", leftovers: "keep" } }),
      'scratch.syslog is "keep"; scratch.historyFiles is "keep"; scratch.leftovers is "keep"',
    ),
    unclear(
      "not yet known",
      declared({ scratch: { leftovers: unknownValue } }),
      "scratch.leftovers is not known at this time",
    ),
    pass(
      "in memory",
      observed(),
      "/tmp and /var/tmp in memory; journal in /srv/logs/journal; no second log, no history, nothing left",
    ),
    fail(
      "on the disk, in every way there is",
      observed({
        scratch: {
          mounts: { "/tmp": "ext4 /dev/mmcblk0p2" },
          journalIn: ["/run/log/journal", "/var/log/journal on /dev/mmcblk0p2"],
          syslogUnits: ["rsyslog.service"],
          syslogProcesses: ["rsyslogd"],
          syslogFiles: ["/var/log/syslog"],
          crashReporters: ["apport.service"],
          bashHistory: "on",
          historyFiles: { "/root/.bash_history": "root" },
          leftovers: ["/tmp"],
        },
      }),
      "/tmp is on ext4 /dev/mmcblk0p2; /var/tmp is on the disk; journal in /var/log/journal on /dev/mmcblk0p2; rsyslog.service writes the log to files; rsyslogd writes the log to files; log on the disk: /var/log/syslog; apport.service would start; bash keeps a history; history /root/.bash_history; left from before: /tmp",
    ),
    fail(
      "in memory now, and not after a boot",
      observed({ scratch: { mountUnits: ["tmp.mount"] } }),
      "var-tmp.mount would not start",
    ),
    fail(
      "in memory, and a service that began before has its own on the disk",
      observed({ scratch: { diskUsers: ["/tmp: systemd-logind.service"] } }),
      "on the disk still, /tmp: systemd-logind.service",
    ),
    fail(
      "with another's word on it",
      observed({ scratch: { overridingFiles: ["/etc/systemd/system/tmp.mount.d/x.conf"] } }),
      "/etc/systemd/system/tmp.mount.d/x.conf comes before what was declared",
    ),
    fail(
      "not in the state",
      observed({ scratch: undefined }),
      "the state has no edgeseal:memory:Scratch of this node",
    ),
    unclear(
      "a state of another shape",
      observed({ scratch: { mounts: "tmpfs", journalIn: "memory" } }),
      "scratch.mountUnits, scratch.mounts, scratch.diskUsers, scratch.overridingFiles, scratch.journalIn, scratch.syslogUnits, scratch.syslogProcesses, scratch.syslogFiles, scratch.crashReporters, scratch.bashHistory, scratch.historyFiles, scratch.leftovers: not of the expected shape",
    ),
  ],
  "4.rootless-container": [
    pass(
      "strict",
      declared(),
      "a system user of its own, no capability, no network, root file system read-only",
    ),
    pass(
      "the accelerator of hailo, which it can't do without",
      loose({ devices: ["/dev/hailo0"] }, { variant: "hailo" }),
      "a system user of its own, no capability, no network, root file system read-only",
    ),
    ...[["/dev/mem"], ["/dev/hailo0", "/dev/mem"], ["/dev/hailo0", "/dev/hailo1"]].map((devices) =>
      fail(
        `for hailo ${devices.join(" and ")}`,
        loose({ devices }, { variant: "hailo" }),
        `added devices: ${devices.join(", ")}`,
      ),
    ),
    fail(
      "loose, in every way there is",
      loose({
        readOnlyRoot: false,
        noNewPrivileges: false,
        network: "host",
        capabilities: ["CAP_SYS_NICE"],
        devices: ["/dev/dri/card0"],
      }),
      'inference.confinement.readOnlyRoot is false; inference.confinement.noNewPrivileges is false; inference.confinement.network is "host"; added capabilities: CAP_SYS_NICE; added devices: /dev/dri/card0',
    ),
    unclear(
      "not yet known",
      loose({ network: unknownValue }),
      "inference.confinement is not known at this time",
    ),
    pass("confined", observed(), confined),
    fail(
      "by root, and confined in nothing",
      found({
        user: "users 0 0 0 0, groups 0 0 0 0",
        groups: "44",
        capabilities: "CAP_NET_RAW",
        noNewPrivileges: "no",
        namespaces: "mnt pid",
        rootFilesystem: "writable",
        interfaces: undefined,
        mounts: "/dev/mem",
      }),
      "user: users 0 0 0 0, groups 0 0 0 0; groups: 44; capabilities: CAP_NET_RAW; noNewPrivileges: no; namespaces: mnt pid; rootFilesystem: writable; interfaces: not there; mounts: /dev/mem",
    ),
    fail(
      "more than it should have, beside it",
      observed({
        inference: {
          groups: ["video"],
          subordinateIds: ["/etc/subuid: edgeseal-inference:100000:65536"],
          foreignContainers: ["other (docker.io/library/alpine)"],
          foreignProcesses: ["bash in /user.slice"],
          unitOverrides: ["/etc/systemd/system/edgeseal-inference.service.d/x.conf"],
        },
      }),
      "its user is in the group video; its user has subordinate ids: /etc/subuid: edgeseal-inference:100000:65536; another container in its storage: other (docker.io/library/alpine); its user runs bash in /user.slice; its unit is changed by /etc/systemd/system/edgeseal-inference.service.d/x.conf",
    ),
    fail(
      "a user that somebody can log in as",
      observed({
        inference: {
          account: { ...account, home: "/home/x", shell: "/bin/bash", password: "not locked" },
          lingering: true,
          groupMembers: ["alice (not in its list: it is the user's primary group)", "pi"],
        },
      }),
      "home: /home/x; shell: /bin/bash; password: not locked; systemd keeps a manager for its user; alice (not in its list: it is the user's primary group) is in its group; pi is in its group",
    ),
    fail(
      "no such user",
      observed({ inference: { account: {} } }),
      "uid: not there; home: not there; shell: not there; password: not there",
    ),
    fail(
      "a unit that no boot starts, and others that are not as they were read",
      observed({
        inference: {
          units: {
            "edgeseal-inference.service": "disabled, active",
            "edgeseal-inference-health.timer": "enabled, inactive",
            "edgeseal-inference-health.service": "static, changed since systemd read it",
          },
        },
      }),
      "edgeseal-inference.service: disabled, active; edgeseal-inference-health.timer: enabled, inactive; edgeseal-inference-health.service: static, changed since systemd read it",
    ),
    fail(
      "a user that is root",
      observed({ inference: { account: { ...account, uid: "root's" } } }),
      "uid: root's",
    ),
    fail(
      "a program that was edited",
      observed({ inference: { content: "other" } }),
      "its units and programs are not as declared",
    ),
    fail(
      "storage that anybody can read who has the disk",
      observed({ inference: { volumes: { "/srv/models/models": "/srv/models, not encrypted" } } }),
      "/srv/models/containers/inference: not there; /srv/models/models: /srv/models, not encrypted",
    ),
    fail("no unit", observed({ inference: { units: {} } }), "edgeseal-inference.service: not there"),
    fail(
      "a program that others can change",
      observed({ inference: { files: { [check]: `0777 root:root sha256:${"a".repeat(64)}` } } }),
      `${check} is 0777 root:root sha256:${"a".repeat(64)}`,
    ),
    unclear(
      "a state that does not tell who is in its group",
      observed({ inference: { groupMembers: undefined } }),
      "inference.groupMembers is not observed",
    ),
    ...always,
  ],
  "4.limits": [
    pass("limited", declared(), "1024 MiB of memory, 350 % of a core, 64 tasks, 16 MiB of /tmp"),
    unclear(
      "not given",
      declared({ inference: { memoryMaxMiB: undefined } }),
      "inference.memoryMaxMiB is not declared",
    ),
    fail(
      "by more memory than there is",
      declared({ inference: { memoryMaxMiB: 999_999, nodeMemoryMiB: undefined } }),
      "inference.memoryMaxMiB is 999999, and no Raspberry Pi 5 has more than 16384",
    ),
    fail(
      "by all the memory that the node has",
      declared({ inference: { memoryMaxMiB: 8192 } }),
      "inference.memoryMaxMiB is 8192, and the node has 8192",
    ),
    unclear(
      "on a node whose memory is not yet known",
      declared({ inference: { nodeMemoryMiB: unknownValue } }),
      "inference.nodeMemoryMiB is not known at this time",
    ),
    fail(
      "by all four cores, as four threads ask for",
      declared({ inference: { threads: 4, cpuQuotaPercent: 400 } }),
      "inference.cpuQuotaPercent is 400, and the four cores of a Raspberry Pi 5 are 400: nothing is left for ssh",
    ),
    pass(
      "by a little less than all four",
      declared({ inference: { cpuQuotaPercent: 399 } }),
      "1024 MiB of memory, 399 % of a core, 64 tasks, 16 MiB of /tmp",
    ),
    fail(
      "with a /tmp that may be all of its memory",
      declared({ inference: { tmpMiB: 1024 } }),
      "inference.tmpMiB is 1024, and all that it may have is 1024",
    ),
    pass("limited", observed(), limited),
    fail(
      "in other ways than declared",
      found({
        memoryMax: "999999 MiB",
        tasksMax: "4096",
        cpuMax: "400 %",
        writable: "/run/inference, /tmp of 999 MiB without exec",
      }),
      "memoryMax: 999999 MiB; tasksMax: 4096; cpuMax: 400 %; writable: /run/inference, /tmp of 999 MiB without exec",
    ),
    fail(
      "without the processor time that was declared as its limit",
      {
        ...observed(),
        asked: { inference: { ...goodServiceInputs.inference, cpuQuotaPercent: 300 } },
      },
      "cpuMax: 350 %",
    ),
    fail(
      "on a node with less memory than the sums were made with",
      observed({ inference: { nodeMemory: "4047 MiB, less than the 8192 declared" } }),
      "the node's memory: 4047 MiB, less than the 8192 declared",
    ),
    unclear(
      "in a state that does not tell the node's memory",
      observed({ inference: { nodeMemory: undefined } }),
      "inference.nodeMemory is not observed",
    ),
    unclear(
      "in a state of which nothing else is known",
      { ...observed(), asked: {} },
      "which limits are declared is not known",
    ),
    fail(
      "in nothing",
      found({
        memoryMax: "max",
        swapMax: "max",
        tasksMax: "max",
        cpuMax: "none",
        writable: "/run/inference, /tmp of any size without exec, /var",
      }),
      "memoryMax: max; swapMax: max; tasksMax: max; cpuMax: none; writable: /run/inference, /tmp of any size without exec, /var",
    ),
    ...always,
  ],
  "4.seccomp": [
    pass("strict", declared(), "denied is what is not listed; nothing added to the list"),
    pass(
      "the container alone: the profile is another resource's",
      alone(),
      "denied is what is not listed; nothing added to the list",
    ),
    fail("without it", loose({ seccomp: "unconfined" }), 'inference.confinement.seccomp is "unconfined"'),
    fail(
      "a call more",
      declared({ seccompProfile: { additionalSyscalls: ["ptrace", "bpf"] } }),
      "system call allowed beyond the profile: ptrace; system call allowed beyond the profile: bpf",
    ),
    fail(
      "a container without a profile",
      declared({ seccompProfile: undefined }),
      "the node has no edgeseal:security:SeccompProfile beside the container",
    ),
    unclear(
      "calls that are not yet known",
      declared({ seccompProfile: { additionalSyscalls: unknownValue } }),
      "seccompProfile is not known at this time",
    ),
    pass(
      "in effect",
      observed(),
      "seccomp filter mode in the process, with the profile's filter on top of the unit's; the profile is the declared one, and denies what it does not list",
    ),
    fail("another filter than ours", found({ seccomp: "none of its own" }), "seccomp: none of its own"),
    fail(
      "the filter of a profile that was changed since",
      found({ seccomp: "profile, as it was before a change" }),
      "seccomp: profile, as it was before a change",
    ),
    fail(
      "a profile that lets all through",
      observed({ seccompProfile: { defaultAction: "allowed", dangerousCalls: ["ptrace"] } }),
      "what the profile does not list: allowed; the profile lets ptrace through",
    ),
    fail(
      "a file to which a call was added",
      observed({ seccompProfile: { content: "other", calls: { kexec_load: "allowed" } } }),
      "the file of the profile is not as declared",
    ),
    fail(
      "a profile that was not tried",
      observed({ seccompProfile: { trial: "no python3" } }),
      "the profile was not tried: no python3",
    ),
    fail(
      "a file that others can change",
      observed({ seccompProfile: { files: { "/etc/edgeseal/seccomp": "0777 root:root directory" } } }),
      "/etc/edgeseal/seccomp is 0777 root:root directory",
    ),
    ...["dangerousCalls", "trial", "content"].map((property) =>
      unclear(
        `a state without ${property}`,
        observed({ seccompProfile: { [property]: undefined } }),
        `seccompProfile.${property} is not observed`,
      ),
    ),
    fail(
      "no profile in the state",
      observed({ seccompProfile: undefined }),
      "the state has no edgeseal:security:SeccompProfile beside the container",
    ),
    ...always,
  ],
  "4.apparmor": [
    pass("strict", declared(), "whatever the container runs is confined by the profile of its service"),
    pass(
      "the container alone",
      alone(),
      "whatever the container runs is confined by the profile of its service",
    ),
    fail("without it", loose({ appArmor: "unconfined" }), 'inference.confinement.appArmor is "unconfined"'),
    fail(
      "a container without a profile",
      declared({ appArmorProfile: undefined }),
      "the node has no edgeseal:security:AppArmorProfile beside the container",
    ),
    pass(
      "in effect",
      observed(),
      `label of the process: ${label}; the policy in the kernel is the declared one`,
    ),
    ...[
      "unconfined",
      "edgeseal-inference and edgeseal-inference-podman (complain)",
      `${label}, as it was before a change`,
      "edgeseal-inference-podman (enforce)",
      "edgeseal-other and edgeseal-other-podman (enforce)",
      "crun (unconfined)",
    ].map((appArmor) => fail(`a process that is ${appArmor}`, found({ appArmor }), `appArmor: ${appArmor}`)),
    fail(
      "another policy of that name in the kernel",
      observed({ appArmorProfile: { loadedPolicy: "other" } }),
      "the policy in the kernel: other",
    ),
    fail(
      "not at the next boot",
      observed({ appArmorProfile: { overrides: ["/etc/apparmor.d/disable/edgeseal-inference"] } }),
      "/etc/apparmor.d/disable/edgeseal-inference would keep it from holding",
    ),
    fail(
      "a file that was edited, and then loaded",
      observed({ appArmorProfile: { content: "other" } }),
      "the file of the profile is not as declared",
    ),
    fail(
      "a profile that only complains",
      observed({ appArmorProfile: { modes: { ...modes, "edgeseal-inference-podman": "complain" } } }),
      "edgeseal-inference-podman: complain",
    ),
    fail(
      "no boot loads it",
      observed({ appArmorProfile: { atBoot: "not loaded" } }),
      "no boot would load the profiles",
    ),
    fail(
      "another file with a profile of the name",
      observed({ appArmorProfile: { otherDefinitions: ["/etc/apparmor.d/zz"] } }),
      "/etc/apparmor.d/zz defines one of the profiles, too",
    ),
    ...["overrides", "content", "modes"].map((property) =>
      unclear(
        `a state without ${property}`,
        observed({ appArmorProfile: { [property]: undefined } }),
        `appArmorProfile.${property} is not observed`,
      ),
    ),
    unclear(
      "a profile of which nothing is known yet",
      declared({ appArmorProfile: { storage: unknownValue } }),
      "appArmorProfile is not known at this time",
    ),
    fail(
      "no profile in the state",
      observed({ appArmorProfile: undefined }),
      "the state has no edgeseal:security:AppArmorProfile beside the container",
    ),
    ...always,
  ],
  "6.pinned-image": [
    pass(
      "pinned",
      declared(),
      `registry.example/edge/llama by ${image.slice(0, 23)}..., which the image policy takes when it is signed`,
    ),
    pass(
      "with a tag that says nothing, from a registry of which all is taken",
      declared({
        inference: { image: `registry.example:5000/edge/llama:latest@${image}` },
        imagePolicy: { allow: [{ image: "registry.example:5000/edge", signedBy: ["site"] }] },
      }),
      `registry.example:5000/edge/llama by ${image.slice(0, 23)}..., which the image policy takes when it is signed`,
    ),
    pass(
      "the container alone: the policy is another resource's",
      alone(),
      `registry.example/edge/llama by ${image.slice(0, 23)}..., which the image policy takes when it is signed`,
    ),
    fail(
      "by a tag",
      declared({ inference: { image: "registry.example/edge/llama:latest" } }),
      'inference.image is "registry.example/edge/llama:latest", without a digest',
    ),
    fail(
      "from elsewhere, of which the name only begins like it",
      declared({ inference: { image: `registry.example/edge/llama-2@${image}` } }),
      "the image policy takes nothing from registry.example/edge/llama-2",
    ),
    fail(
      "without a policy",
      declared({ imagePolicy: undefined }),
      "the image policy takes nothing from registry.example/edge/llama",
    ),
    pass("runs", observed(), `runs from ${image}, as declared`),
    pass(
      "runs, from an archive in a folder, with a signature for its repository",
      underRules({ "dir:/var/lib/edgeseal/images/aa": signedFor("registry.example/edge/llama") }),
      `runs from ${image}, as declared`,
    ),
    pass(
      "runs, from a registry of which all is taken",
      underRules({ "docker:registry.example": signedFor("its own name and tag") }),
      `runs from ${image}, as declared`,
    ),
    unclear(
      "runs, in a state of which nothing else is known",
      { ...observed(), asked: {} },
      "which image is declared is not known",
    ),
    ...Object.entries({
      "no rule": {},
      "one for another repository only": {
        "docker:registry.example/edge/llama-2": signedFor("its own name and tag"),
        "dir:/var/lib/edgeseal/images/aa": signedFor("registry.example/edge/llama-2"),
      },
      "a narrower one that rejects it": {
        "docker:registry.example": signedFor("its own name and tag"),
        "docker:registry.example/edge": "reject",
      },
    }).map(([rule, rules]) =>
      fail(
        `under a policy with ${rule}`,
        underRules(rules),
        "the image policy takes nothing from registry.example/edge/llama",
      ),
    ),
    fail(
      "under no policy",
      observed({ imagePolicy: undefined }),
      "the state has no edgeseal:container:ImagePolicy beside the container",
    ),
    unclear(
      "under a policy whose rules were not read",
      observed({ imagePolicy: { rules: undefined } }),
      "imagePolicy.rules is not observed",
    ),
    fail(
      "another one",
      observed({ inference: { image: otherDigest } }),
      `runs from ${otherDigest}, declared is registry.example/edge/llama@${image}`,
    ),
    fail("none that is known", observed({ inference: { image: "" } }), "runs from no image that is known"),
    ...always,
  ],
  "6.signed-model": [
    pass("signed", declared(), `${modelDigest.slice(0, 23)}..., signed by site`),
    fail(
      "no block",
      declared({ model: undefined }),
      "the node has no `model` block (edgeseal:inference:Model), which `inference` in a site file brings",
    ),
    fail("no key", declared({ model: { keys: {} } }), "model.keys has no key that may sign"),
    fail(
      "another one is served",
      declared({ inference: { model: otherDigest } }),
      `served is ${otherDigest}, and the model is ${modelDigest}`,
    ),
    unclear(
      "not yet known",
      declared({ model: { digest: unknownValue } }),
      "model.digest is not known at this time",
    ),
    pass("verified", observed(), `${modelDigest}: content and signature verified on the node`),
    pass(
      "verified, and nothing runs, which is for others to tell",
      observed({ inference: { health: "not running", model: "" } }),
      `${modelDigest}: content and signature verified on the node`,
    ),
    fail(
      "wrong, in every way there is",
      observed({
        inference: { model: otherDigest },
        model: {
          volume: "not mounted",
          model: `corrupted: the content has ${otherDigest}`,
          files: { "/srv/models/models": "0777 root:root directory", "/m": "0644 root:root" },
        },
      }),
      `served is ${otherDigest}, and in place ${modelDigest}; the volume is not mounted; the model is corrupted: the content has ${otherDigest}; /srv/models/models is 0777 root:root directory`,
    ),
    fail(
      "a key beside the site's, or in the place of one",
      observed({ model: { foreignKeys: ["evil"] } }),
      "evil may sign models, and was not declared",
    ),
    unclear(
      "keys of which nobody said whose they are",
      observed({ model: { foreignKeys: undefined } }),
      "model.foreignKeys is not observed",
    ),
    fail(
      "not in the state",
      observed({ model: undefined }),
      "the state has no edgeseal:inference:Model of this node",
    ),
  ],
};
