import { outerName } from "./apparmor-profile-rules.ts";
import { inferenceUnit } from "./container-process.ts";
import { connectionsKept, connectionsOf, tasksOfPodman } from "./inference-container-connections.ts";
import { referenceOf, type InferenceContainerInputs } from "./inference-container-inputs.ts";

/*
 * The units of a service, as text. Rootless podman in a unit of the system: a unit of a user could not have AppArmorProfile=, and a container that podman starts by itself gets no profile at all
 * (rootless podman can't set one). So the unit is confined, and in it what the image brings is confined once more.
 */

/** A program's directory, and the home of the services' users: an empty one, in which nobody can put a policy or a configuration of podman's. */
/** How long a unit may take to start or to end: over systemd's own 90 s. */
export const unitSeconds = 120;

export const programDirectory = "/usr/lib/edgeseal";
export const emptyHome = `${programDirectory}/no-home`;
export const checkProgram = `${programDirectory}/check-inference`;
export const askProgram = `${programDirectory}/ask-inference`;
export const startProgram = `${programDirectory}/start-inference`;

export const userOf = (name: string): string => `edgeseal-${name}`;
export const runtimeDirectoryOf = (name: string): string => `/run/edgeseal-${name}`;
const conmonPidFileOf = (name: string): string => `${runtimeDirectoryOf(name)}/conmon.pid`;
export const seccompProfileOf = (name: string): string => `/etc/edgeseal/seccomp/${name}.json`;
export const modelFolderOf = ({ modelDirectory, model }: InferenceContainerInputs): string =>
  `${modelDirectory}/${model.slice("sha256:".length)}`;

export const healthTimerOf = (name: string): string => `edgeseal-${name}-health.timer`;
export const healthServiceOf = (name: string): string => `edgeseal-${name}-health.service`;
export const portSocketOf = (name: string): string => `edgeseal-${name}-port.socket`;
export const portServiceOf = (name: string): string => `edgeseal-${name}-port.service`;

const modelInContainer = "/models/model.gguf";
const socketsInContainer = "/run/inference";

/** How a variant is started, and asked. */
interface Variant {
  /** Arguments of the container, the program first where the image's own entry point is not it. */
  readonly command: (inputs: InferenceContainerInputs) => readonly string[];
  readonly environment: (inputs: InferenceContainerInputs) => Readonly<Record<string, string>>;
  /** `undefined`: it listens on a UNIX socket. Else on this port of a loopback of its own, since it knows no other way. */
  readonly port: number | undefined;
  /** What it answers with 200 once it serves. */
  readonly healthPath: string;
  /** Files that it has open besides its connections, for one that has a thread for each of these. It has no limit of its own, and dies when it may make no more threads; without a file it lets them wait. */
  readonly files?: number;
}

const variants: Readonly<Record<InferenceContainerInputs["variant"], Variant>> = {
  "llama-server": {
    command: (inputs) => [
      ...["--model", modelInContainer, "--host", `${socketsInContainer}/http.sock`],
      ...["--ctx-size", String(inputs.contextTokens), "--threads", String(inputs.threads)],
      // A thread for each connection from the start: of those that come at the same moment it would let some wait for the end of others, and /health among them.
      ...["--parallel", String(inputs.parallel), "--threads-http", String(connectionsOf(inputs))],
      ...["-lm", inputs.confinement.memoryLock ? "mmap+mlock" : "mmap"],
      // --no-slots: shows prompts, and is on by default. --cache-ram: keeps them, up to 8 GiB by default.
      ...["--no-webui", "--no-slots", "--cache-ram", "0", "--offline", "--no-warmup"],
    ],
    environment: () => ({}),
    port: undefined,
    healthPath: "/health",
    // 5, and a few while it reads its model.
    files: 8,
  },
  ollama: {
    command: () => ["serve"],
    environment: ({ contextTokens, parallel }) => ({
      HOME: "/tmp",
      OLLAMA_HOST: "127.0.0.1:11434",
      OLLAMA_MODELS: "/models",
      OLLAMA_CONTEXT_LENGTH: String(contextTokens),
      OLLAMA_NUM_PARALLEL: String(parallel),
      OLLAMA_MAX_LOADED_MODELS: "1",
      OLLAMA_KEEP_ALIVE: "-1",
      OLLAMA_NOPRUNE: "1",
      OLLAMA_NOHISTORY: "1",
    }),
    port: 11_434,
    healthPath: "/api/version",
  },
  hailo: {
    command: () => [],
    environment: () => ({ HOME: "/tmp" }),
    port: 8000,
    healthPath: "/api/version",
  },
};

/** Where a server is asked for its health: the path of its socket, or an address in its own network namespace; and what for. */
export function healthAddress({ name, variant }: InferenceContainerInputs): {
  readonly address: string;
  readonly path: string;
  readonly inNamespace: boolean;
} {
  const { port, healthPath } = variants[variant];
  return port === undefined
    ? { address: `${runtimeDirectoryOf(name)}/http/http.sock`, path: healthPath, inNamespace: false }
    : { address: `127.0.0.1:${port}`, path: healthPath, inNamespace: true };
}

/** A word of a unit file's command line (systemd.service(5), "COMMAND LINES"). */
function word(text: string): string {
  const escaped = text.replaceAll("%", "%%").replaceAll("$", "$$$$");
  return /^[A-Za-z0-9_./:=@%$,+-]+$/.test(text) ? escaped : `"${escaped.replaceAll(/["\\]/g, "\\$&")}"`;
}

const lines = (...all: readonly (string | false | readonly string[])[]): string =>
  `${all
    .flat()
    .filter((line) => line !== false)
    .join("\n")}\n`;

const heading = "# Written by edgeseal (edgeseal:inference:InferenceContainer).";

/** Podman with a storage of the service's own. Options that are in no file, so that no file of a user's can be in their place. */
export const podman = ({
  name,
  storage,
}: Pick<InferenceContainerInputs, "name" | "storage">): readonly string[] => [
  "/usr/bin/podman",
  ...["--root", storage, "--runroot", `${runtimeDirectoryOf(name)}/storage`],
  // The user has no range of subordinate ids: one user in the container, root, who is this user outside.
  ...["--storage-opt", "ignore_chown_errors=true"],
  ...["--cgroup-manager", "cgroupfs", "--events-backend", "none"],
];

/** What podman finds around it: folders of the runtime directory, and a home in which it finds nothing. */
export const podmanEnvironment = (name: string): Readonly<Record<string, string>> => {
  const runtime = runtimeDirectoryOf(name);
  return {
    HOME: emptyHome,
    XDG_RUNTIME_DIR: runtime,
    XDG_CONFIG_HOME: `${runtime}/config`,
    XDG_DATA_HOME: `${runtime}/data`,
    XDG_CACHE_HOME: `${runtime}/cache`,
  };
};

const nofile = (limit: number): string => `nofile=${limit}:${limit}`;

function runCommand(inputs: InferenceContainerInputs): readonly string[] {
  const { name, image, variant, tmpMiB, tasksMax, confinement } = inputs;
  const { command, environment, port, files } = variants[variant];
  const { devices } = confinement;
  // A server that knows no UNIX socket: its loopback is the unit's, in a namespace with no other interface.
  const network = port === undefined && confinement.network === "none" ? "none" : "host";
  return [
    ...podman(inputs),
    ...["run", "--name", userOf(name), "--replace", "--detach", "--pull=never"],
    ...[
      "--cgroups=split",
      "--sdnotify=ignore",
      `--conmon-pidfile=${conmonPidFileOf(name)}`,
      "--log-driver=passthrough",
    ],
    ...["--network", network, "--ipc", "none"],
    ...(confinement.readOnlyRoot ? ["--read-only", "--read-only-tmpfs=false"] : []),
    ...["--tmpfs", `/tmp:rw,size=${tmpMiB}m,mode=1777,noexec,nosuid,nodev`],
    ...["--user", "0:0", "--umask", "0007", "--cap-drop", "all"],
    ...confinement.capabilities.flatMap((each) => ["--cap-add", each]),
    ...(confinement.noNewPrivileges ? ["--security-opt", "no-new-privileges"] : []),
    "--security-opt",
    `seccomp=${confinement.seccomp === "profile" ? seccompProfileOf(name) : "unconfined"}`,
    ...["--pids-limit", String(tasksMax - tasksOfPodman)],
    ...["--ulimit", confinement.memoryLock ? "memlock=-1:-1" : "memlock=0:0", "--ulimit", "core=0:0"],
    ...(files === undefined ? [] : ["--ulimit", nofile(files + connectionsOf(inputs))]),
    ...devices.flatMap((each) => ["--device", each]),
    ...(devices.length === 0 ? [] : ["--group-add", "keep-groups"]),
    ...Object.entries(environment(inputs)).flatMap(([key, value]) => ["--env", `${key}=${value}`]),
    ...["--volume", `${modelFolderOf(inputs)}:/models:ro`],
    ...["--volume", `${runtimeDirectoryOf(name)}/http:${socketsInContainer}`],
    referenceOf(image),
    ...command(inputs),
  ];
}

/** Groups of system calls that the unit leaves to podman and what it runs; the container's own profile is far narrower. */
const unitSystemCalls = "@system-service @mount @keyring sethostname setns unshare pivot_root bpf";

/** The unit that runs the container. */
export function serviceUnit(inputs: InferenceContainerInputs): string {
  const { name, model, modelDirectory, storage, confinement, variant } = inputs;
  const { memoryMaxMiB, tasksMax, cpuQuotaPercent, startTimeoutSeconds } = inputs;
  const ownNetwork = confinement.network === "none";
  const tcp = variants[variant].port !== undefined || !ownNetwork;
  const check = [checkProgram, name, modelDirectory, model.slice("sha256:".length), storage];
  return lines(
    heading,
    "[Unit]",
    `Description=Inference server ${name}`,
    // Not Requires=: a volume that stays locked is told by the check, which says why.
    "After=edgeseal-volumes.service apparmor.service",
    confinement.appArmor === "profile" && [
      "# systemd passes over AppArmorProfile= where the kernel has no AppArmor.",
      "AssertSecurity=apparmor",
    ],
    "StartLimitIntervalSec=1800",
    "StartLimitBurst=6",
    "",
    "[Service]",
    // Not Type=notify: it is a child of podman's that tells systemd, and it may be gone before systemd looks who it was ("Notify sender died before message is processed. Ignoring.", systemd 257).
    "Type=forking",
    `PIDFile=${conmonPidFileOf(name)}`,
    `User=${userOf(name)}`,
    `Group=${userOf(name)}`,
    "# Before each start: the volume is mounted, and the model is the one that was signed. Outside the confinement, in which no such program could run.",
    `ExecCondition=+${check.map(word).join(" ")}`,
    `ExecStart=${runCommand(inputs).map(word).join(" ")}`,
    "Restart=always",
    "RestartSec=2",
    "RestartSteps=5",
    "RestartMaxDelaySec=60",
    `TimeoutStartSec=${startTimeoutSeconds}`,
    // To conmon alone, which passes it on: llama-server takes a second signal for "at once".
    "KillMode=mixed",
    "TimeoutStopSec=30",
    "Delegate=yes",
    // The second is what others reach the server by who are in the group.
    `RuntimeDirectory=${userOf(name)} ${userOf(name)}/http`,
    "RuntimeDirectoryMode=0710",
    ...Object.entries(podmanEnvironment(name)).map(([key, value]) => `Environment=${key}=${value}`),
    "",
    `MemoryMax=${memoryMaxMiB}M`,
    "MemorySwapMax=0",
    `TasksMax=${tasksMax}`,
    `CPUQuota=${cpuQuotaPercent}%`,
    "OOMScoreAdjust=500",
    `LimitMEMLOCK=${confinement.memoryLock ? "infinity" : "0"}`,
    "LimitCORE=0",
    "",
    confinement.appArmor === "profile" && `AppArmorProfile=${outerName(name)}`,
    `NoNewPrivileges=${confinement.noNewPrivileges ? "yes" : "no"}`,
    // A user namespace of the container's has capabilities of its own.
    "CapabilityBoundingSet=",
    "PrivateTmp=yes",
    ...deviceLines(confinement.devices),
    ...(ownNetwork
      ? ["PrivateNetwork=yes", "IPAddressDeny=any", ...(tcp ? ["IPAddressAllow=localhost"] : [])]
      : []),
    `RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET${ownNetwork ? "" : " AF_INET6"}`,
    "ProtectSystem=strict",
    // Where it is missing, the check says so.
    `ReadWritePaths=-${storage}`,
    "ProtectHome=yes",
    "ProtectClock=yes",
    "ProtectKernelModules=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictNamespaces=user mnt pid ipc uts net cgroup",
    "SystemCallArchitectures=native",
    `SystemCallFilter=${unitSystemCalls}`,
    "SystemCallErrorNumber=EPERM",
    "KeyringMode=private",
    "RemoveIPC=yes",
    "UMask=0077",
    "",
    "[Install]",
    "WantedBy=multi-user.target",
  );
}

const deviceLines = (devices: readonly string[]): readonly string[] =>
  devices.length === 0
    ? ["PrivateDevices=yes"]
    : // A private /dev has none of them.
      ["DevicePolicy=closed", "DeviceAllow=/dev/fuse rw", ...devices.map((each) => `DeviceAllow=${each} rw`)];

/** Hardening of the small units beside it: they may do next to nothing. */
const smallUnit = [
  "AmbientCapabilities=",
  "CapabilityBoundingSet=",
  "NoNewPrivileges=yes",
  "PrivateDevices=yes",
  "PrivateNetwork=yes",
  "PrivateTmp=yes",
  "ProtectClock=yes",
  "ProtectControlGroups=yes",
  "ProtectHome=yes",
  "ProtectHostname=yes",
  "ProtectKernelLogs=yes",
  "ProtectKernelModules=yes",
  "ProtectKernelTunables=yes",
  "ProtectProc=invisible",
  "ProtectSystem=strict",
  "LockPersonality=yes",
  "MemoryDenyWriteExecute=yes",
  "MemoryMax=64M",
  "MemorySwapMax=0",
  "TasksMax=32",
  "RestrictNamespaces=yes",
  "RestrictRealtime=yes",
  "RestrictSUIDSGID=yes",
  "SystemCallArchitectures=native",
  "SystemCallFilter=@system-service",
  "SystemCallErrorNumber=EPERM",
  "UMask=0077",
] as const;

/** How a small unit gets to where the server listens: into its group for the socket, or into its network. */
function reaching(inputs: InferenceContainerInputs): {
  readonly unit: readonly string[];
  readonly service: readonly string[];
} {
  const { inNamespace } = healthAddress(inputs);
  return inNamespace
    ? {
        unit: [`JoinsNamespaceOf=${inferenceUnit(inputs.name)}`],
        service: ["RestrictAddressFamilies=AF_UNIX AF_INET", "IPAddressDeny=any", "IPAddressAllow=localhost"],
      }
    : {
        unit: [],
        service: [
          `SupplementaryGroups=${userOf(inputs.name)}`,
          "RestrictAddressFamilies=AF_UNIX",
          "IPAddressDeny=any",
        ],
      };
}

/**
 * Asks the server every half minute, and has it started anew when it does not answer for a minute. Not podman's health check: that would run a program in the container, where there is none, nor
 * may it be (AppArmor). Not WatchdogSec=: nothing in the unit could send the signs of life, llama-server has none.
 */
function healthUnits(inputs: InferenceContainerInputs): Readonly<Record<string, string>> {
  const { name } = inputs;
  const { address, path } = healthAddress(inputs);
  const { unit, service } = reaching(inputs);
  return {
    [healthTimerOf(name)]: lines(
      heading,
      "[Unit]",
      `Description=Asks the inference server ${name} whether it answers, every half minute`,
      `PartOf=${inferenceUnit(name)}`,
      `After=${inferenceUnit(name)}`,
      "",
      "[Timer]",
      "OnActiveSec=60",
      "OnUnitInactiveSec=30",
      "AccuracySec=5",
      "",
      "[Install]",
      `WantedBy=${inferenceUnit(name)}`,
    ),
    [healthServiceOf(name)]: lines(
      heading,
      "[Unit]",
      `Description=Asks the inference server ${name} whether it answers`,
      ...unit,
      "",
      "[Service]",
      "Type=oneshot",
      // One that reads its model answers, too: with 503.
      `ExecStart=${[askProgram, "--alive", address, path, "60"].map(word).join(" ")}`,
      "# As root, outside the confinement: this one command, when it did not answer and is not being started just then.",
      `ExecStopPost=+/bin/sh -c 'test "$$SERVICE_RESULT" = success || ! systemctl is-active -q ${inferenceUnit(name)} || exec systemctl --no-block try-restart ${inferenceUnit(name)}'`,
      "TimeoutStartSec=120",
      "DynamicUser=yes",
      ...service,
      ...smallUnit,
    ),
  };
}

function portUnits(inputs: InferenceContainerInputs): Readonly<Record<string, string>> {
  const { name, port } = inputs;
  if (port === undefined) return {};
  const { address } = healthAddress(inputs);
  const { unit, service } = reaching(inputs);
  return {
    [portSocketOf(name)]: lines(
      heading,
      "[Unit]",
      `Description=Port ${port} of the loopback, for the inference server ${name}`,
      "",
      "[Socket]",
      `ListenStream=127.0.0.1:${port}`,
      "",
      "[Install]",
      "WantedBy=sockets.target",
    ),
    [portServiceOf(name)]: lines(
      heading,
      "[Unit]",
      `Description=Leads port ${port} of the loopback to the inference server ${name}`,
      `Requires=${portSocketOf(name)}`,
      `After=${portSocketOf(name)} ${inferenceUnit(name)}`,
      ...unit,
      "",
      "[Service]",
      "Type=notify",
      // It takes one more than it is told (systemd 252 to 257).
      `ExecStart=/usr/lib/systemd/systemd-socket-proxyd --exit-idle-time=10min --connections-max=${connectionsOf(inputs) - connectionsKept - 1} ${word(address)}`,
      "DynamicUser=yes",
      ...service,
      ...smallUnit,
    ),
  };
}

/** All units of a service by name, its own first. */
export const unitFiles = (inputs: InferenceContainerInputs): Readonly<Record<string, string>> => ({
  [inferenceUnit(inputs.name)]: serviceUnit(inputs),
  ...healthUnits(inputs),
  ...portUnits(inputs),
});
