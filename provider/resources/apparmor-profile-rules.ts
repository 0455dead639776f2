import { posix } from "node:path";
import { defaultAccelerator, type Variant } from "./server-variants.ts";

/*
 * What the two AppArmor profiles of an inference service allow, rule by rule and with its reason, which stands in the profile, too.
 *
 * The unit runs podman under the outer profile. Whatever is started that is not one of podman's own programs, from whatever image, gets the inner one stacked upon it: both
 * have to allow what it does. So what holds does not hang on the image, its entry point, or on an option of podman's (rootless podman can't set a profile).
 */

export interface AppArmorInputs {
  readonly name: string;
  readonly modelDirectory: string;
  readonly storage: string;
  readonly variant: Variant;
  readonly accelerator?: string;
}

export interface Rules {
  readonly why: string;
  readonly rules: readonly string[];
}

const rules = (why: string, ...each: readonly string[]): Rules => ({ why, rules: each });

export const outerName = (name: string): string => `edgeseal-${name}-podman`;
export const innerName = (name: string): string => `edgeseal-${name}`;

/** Programs of podman's. In AppArmor's language the longest literal rule wins, so none of them takes the transition below. */
const podmanPrograms = [
  "/usr/bin/podman",
  "/usr/bin/crun",
  "/usr/bin/conmon",
  "/usr/bin/fuse-overlayfs",
  "/usr/bin/catatonit",
  "/usr/libexec/podman/catatonit",
  "/usr/bin/rm",
];

/** The outer profile: podman sets up namespaces, mounts and limits, as an unprivileged user. */
export const outerRules = ({ name }: AppArmorInputs): readonly Rules[] => [
  rules(
    "Podman makes the container's namespaces and mounts; it is an ordinary user's, who has these rights in a user namespace of its own only.",
    "capability,",
    "userns,",
    "mount,",
    "umount,",
    "pivot_root,",
  ),
  rules(
    "It sends signals to the container, talks to systemd and journald, and looks at what it started.",
    "signal,",
    "unix,",
    "network,",
    "dbus,",
    "ptrace,",
  ),
  rules("It puts the inner profile upon the container.", "change_profile,"),
  rules(
    "Its storage, and the container's files as it sets them up: what its user may.",
    "/ r,",
    "/** rwlkm,",
  ),
  rules("Its own programs, one by one.", ...podmanPrograms.map((path) => `${path} ix,`)),
  rules(
    "Everything else that is started, whatever the image: with the inner profile stacked upon this one.",
    `/** pix -> &${innerName(name)},`,
  ),
];

/** A path as it is from the root, and from each directory on the way that could be a mount point. */
function belowAnyMount(path: string): readonly string[] {
  const parts = path.split("/").slice(1);
  return [...parts, ""].map((_, index) =>
    parts
      .slice(index)
      .map((part) => `/${part}`)
      .join(""),
  );
}

/** What a server itself needs, whichever it is. */
const anyServer = ({ name, storage }: AppArmorInputs): readonly Rules[] => [
  rules("Its libraries and what the C library reads.", "/usr/lib/** mr,", "/etc/ld.so.cache r,"),
  rules(
    "The same files as the kernel names them when memory of theirs changes its protection: by where they lie in the storage, from the root or, as overlayfs opens them, from the volume's mount point on.",
    ...belowAnyMount(storage).map((path) => `${path}/overlay/*/diff*/usr/{bin,lib}/** mr,`),
  ),
  rules(
    "Standard input, and what the kernel puts in the place of descriptors that it may not keep.",
    "/dev/null rw,",
    "/apparmor/.null rw,",
  ),
  rules(
    "What the processor and the memory are like.",
    "/proc/{stat,cpuinfo,meminfo} r,",
    "/sys/devices/system/cpu/** r,",
  ),
  rules("The runtime looks at the label that it gave.", "/proc/[0-9]*/attr/current r,"),
  rules("Its temporary files, on a tmpfs of its own.", "/tmp/** rw,"),
  rules(
    "Signals of podman's and of systemd's, which end it. It sends none.",
    `signal receive peer=${outerName(name)},`,
    "signal receive peer=unconfined,",
  ),
];

const variantRules: Readonly<Record<Variant, (inputs: AppArmorInputs) => readonly Rules[]>> = {
  "llama-server": ({ modelDirectory }) => [
    rules(
      "The server, and the folders that it looks through for its back ends.",
      "/usr/bin/llama-server mrix,",
      "/ r,",
      "/usr/bin/ r,",
    ),
    rules(
      "The model, as the container names it, and as the node does.",
      "/models/ r,",
      "/models/model.gguf r,",
      `${modelDirectory}/*/model.gguf r,`,
    ),
    rules(
      "The socket file that it answers on. No other kind of network.",
      "/run/inference/* rw,",
      "unix type=stream,",
    ),
  ],
  ollama: ({ modelDirectory }) => [
    rules("The server, which starts itself once more for each model.", "/usr/bin/ollama mrix,"),
    rules(
      "Its store of models, as the container names it, and as the node does.",
      "/models/ r,",
      "/models/** r,",
      `${modelDirectory}/*/** r,`,
    ),
    rules(
      "It answers on a loopback address, and so do its runners: it knows no socket files.",
      "network inet stream,",
      "network inet6 stream,",
      "unix type=stream,",
    ),
    rules(
      "The names of the loopback, and its runners' state.",
      "/etc/{hosts,host.conf,nsswitch.conf,passwd,group} r,",
      "/proc/[0-9]*/{stat,status,maps} r,",
      "/proc/sys/{vm/overcommit_memory,net/core/somaxconn,kernel/ngroups_max} r,",
      "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size r,",
    ),
    rules("It ends its runners.", "signal (send, receive) peer=@{profile_name},"),
  ],
  hailo: ({ modelDirectory, accelerator = defaultAccelerator }) => [
    rules("The server.", "/usr/bin/hailo-ollama mrix,", "/usr/share/hailo-ollama/** r,"),
    rules(
      "The accelerator, and where its driver tells of it.",
      `${accelerator} rw,`,
      "/sys/class/hailo_chardev/{,**} r,",
      `/sys/devices/**/hailo_chardev/${posix.basename(accelerator)}/** r,`,
    ),
    rules(
      "The model, as the container names it, and as the node does.",
      "/models/ r,",
      "/models/** r,",
      `${modelDirectory}/*/** r,`,
    ),
    rules(
      "It answers on a loopback address: it knows no socket files.",
      "network inet stream,",
      "unix type=stream,",
    ),
  ],
};

/** The inner profile: what the server does, and nothing else. */
export const innerRules = (inputs: AppArmorInputs): readonly Rules[] => [
  ...variantRules[inputs.variant](inputs),
  ...anyServer(inputs),
];

const block = ({ why, rules: each }: Rules): string =>
  [`  # ${why}`, ...each.map((rule) => `  ${rule}`)].join("\n");

const profile = (name: string, all: readonly Rules[]): string =>
  // Paths of a mount namespace that the kernel can't lead back to a root begin with / then; files that were deleted are judged, too.
  `profile ${name} flags=(attach_disconnected, mediate_deleted) {\n${all.map(block).join("\n\n")}\n}\n`;

/** The file in /etc/apparmor.d. It includes nothing but the version of the language: neither tunables nor local additions change what it means. */
export const appArmorDocument = (inputs: AppArmorInputs): string =>
  `# Written by edgeseal (edgeseal:security:AppArmorProfile).
abi <abi/4.0>,

${profile(outerName(inputs.name), outerRules(inputs))}
${profile(innerName(inputs.name), innerRules(inputs))}`;
