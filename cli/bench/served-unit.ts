/*
 * The unit of an inference server, read and rendered with layers taken away. All starts from the text of the unit that serves, so that what is compared has the same
 * image, model and arguments.
 */

/** What the text of a unit says of the server that it runs. */
export interface ServedUnit {
  readonly name: string;
  readonly text: string;
  /** podman's storage. */
  readonly storage: string;
  /** Folder that is mounted at /models. */
  readonly modelFolder: string;
  /** Image by its digest, as podman is given it. */
  readonly image: string;
  /** Folder of the host's that the server's socket is in. */
  readonly socketFolder: string;
  /** Arguments of the server itself. */
  readonly serverArguments: string;
}

/** A unit that nothing can be compared with. */
export class UnitUnknown extends Error {
  override readonly name = "UnitUnknown";
}

/**
 * Reads a unit that edgeseal rendered.
 * @throws UnitUnknown when it is not one of llama-server
 */
export function readServedUnit(name: string, text: string): ServedUnit {
  const command = /^ExecStart=(.*)$/m.exec(text)?.[1] ?? "";
  const option = (pattern: RegExp): string => {
    const found = pattern.exec(command)?.[1];
    if (found === undefined)
      throw new UnitUnknown(
        `the unit edgeseal-${name}.service does not run llama-server as edgeseal renders it (no ${pattern.source})`,
      );
    return found;
  };
  return {
    name,
    text,
    storage: option(/ --root (\S+) /),
    modelFolder: option(/ --volume (\S+):\/models:ro /),
    socketFolder: option(/ --volume (\S+):\/run\/inference /),
    image: option(/ (\S+@sha256:[0-9a-f]{64}) /),
    serverArguments: option(/@sha256:[0-9a-f]{64} (.*--host \/run\/inference\/http\.sock .*)$/),
  };
}

/** Where the server listens, seen from outside. */
export const socketOf = ({ socketFolder }: ServedUnit): string => `${socketFolder}/http.sock`;

const keyOf = (line: string): string => line.split("=", 1)[0] ?? "";

const without = (text: string, drop: (key: string, line: string) => boolean): string =>
  text
    .split("\n")
    .filter((line) => !drop(keyOf(line), line))
    .join("\n");

/**
 * The unit for a comparison: it starts once, never by itself, and not beside the one that serves. The check of the model is left out: it reads the whole file, which would then be in the page cache.
 */
export function comparable({ name, text }: Pick<ServedUnit, "name" | "text">): string {
  const [body = ""] = text.split("\n[Install]\n");
  const dropped =
    /^(Description|ExecCondition|Restart|RestartSec|RestartSteps|RestartMaxDelaySec|StartLimit.*|#.*)$/;
  return without(body, (key) => dropped.test(key)).replace(
    "[Unit]\n",
    `[Unit]\nDescription=Inference server ${name}, compared\nConflicts=edgeseal-${name}.service\n`,
  );
}

/** Another folder in the place of the model's. */
export const withModelIn = (text: string, modelFolder: string): string =>
  text.replace(/ --volume \S+:\/models:ro /, ` --volume ${modelFolder}:/models:ro `);

export const withoutAppArmor = (text: string): string =>
  without(text, (key, line) => key === "AppArmorProfile" || line === "AssertSecurity=apparmor");

/** Without the container's own profile; the filters of its unit stay. */
export const withoutSeccompProfile = (text: string): string =>
  text.replace(/ seccomp=\S+ /, " seccomp=unconfined ");

const limitKeys = ["MemoryMax", "MemorySwapMax", "TasksMax", "CPUQuota"];

export const withoutLimits = (text: string): string =>
  without(text, (key) => limitKeys.includes(key)).replace(/ --pids-limit \S+ /, " ");

/** What a unit needs to run at all. Everything else of systemd's that confines it is hardening. */
const needed = new Set([
  ...["Description", "Conflicts", "After", "AssertSecurity"],
  ...["Type", "PIDFile", "User", "Group", "ExecStart", "TimeoutStartSec", "TimeoutStopSec", "Delegate"],
  ...["RuntimeDirectory", "RuntimeDirectoryMode", "Environment", "LimitMEMLOCK", "LimitCORE"],
  ...["OOMScoreAdjust", "AppArmorProfile", ...limitKeys],
]);

/** Without what systemd confines the unit by: its filters of system calls, read-only paths, its own devices and network. */
export const withoutHardening = (text: string): string =>
  without(text, (key, line) => line.includes("=") && !line.startsWith("[") && !needed.has(key));

/**
 * The same program with the same arguments as a process of the same user, without a container, its files in a folder as they are in the image. It has a mount namespace, in which that folder is its
 * root, and nothing else.
 */
export function plainProcess(unit: ServedUnit, rootFolder: string): string {
  const { name, modelFolder, socketFolder, serverArguments } = unit;
  return `[Unit]
Description=Inference server ${name}, compared
Conflicts=edgeseal-${name}.service

[Service]
Type=exec
User=edgeseal-${name}
Group=edgeseal-${name}
RootDirectory=${rootFolder}
MountAPIVFS=yes
# Volumes are mounted without exec.
ExecPaths=+/usr
BindReadOnlyPaths=${modelFolder}:/models
BindPaths=${socketFolder}:/run/inference
RuntimeDirectory=edgeseal-${name} edgeseal-${name}/http
RuntimeDirectoryMode=0710
UMask=0007
LimitMEMLOCK=infinity
LimitCORE=0
TimeoutStopSec=30
ExecStart=/usr/bin/llama-server ${serverArguments}
`;
}
