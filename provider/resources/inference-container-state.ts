import { Type, type Static } from "typebox";
import { content, oneOf, texts, textsByName } from "./state-schema.ts";

/** What is read back of `edgeseal:inference:InferenceContainer`: of the process that serves, from the kernel, wherever there is one. */
export const inferenceContainerState = Type.Object({
  missingPackages: texts("Debian packages that are needed and not installed. Sorted."),
  health: oneOf(
    ["healthy", "loading", "no answer", "not running"],
    "Whether the server answers: `loading` while it reads the model; `no answer`: it runs, and does not answer within 10 s, or with an error.",
  ),
  reason: Type.String({
    description:
      "Why it does not run: what the check before its start said (the volume is locked, the model is not the signed one), else systemd's and podman's last words. Empty while it runs.",
  }),
  image: Type.String({
    description: "Digest of the image that the running container was made of; empty when none runs.",
  }),
  model: Type.String({
    description: "Digest of the model that is mounted in the running container; empty when none runs.",
  }),
  confinement: textsByName(
    "What holds of the container's first process, read from the kernel: `user`, `groups`, `capabilities` (of all five sets), `noNewPrivileges`, `seccomp` and `appArmor` (`..., as it was before a change` where the profile has been another one since its start), `namespaces` of its own, `rootFilesystem`, `writable` (what else it can write to), `mounts` (what else of the node is mounted in it), `interfaces` of its network, `oomScoreAdjust`, `memoryMax`, `swapMax`, `tasksMax`, `cpuMax`, and for llama-server `modelLocked`. Empty when none runs.",
  ),
  account: textsByName(
    "The service's user: `uid` (`its own`, `root's` or `shared with USER`), `home`, `shell`, `password`, and its user database entry's `group`; empty without such a user.",
  ),
  groups: texts("Groups that the user was added to, e.g. `video`. Sorted."),
  groupMembers: texts(
    "Users who are in the service's group, and so can talk to the server: by its list of members; and, marked `(not in its list: ...)`, by their primary group or another group of the same number. Sorted; services get in by SupplementaryGroups= of their units, which does not show here.",
  ),
  subordinateIds: texts("Lines of /etc/subuid and /etc/subgid that are this user's: it needs none."),
  lingering: Type.Boolean({
    description: "Whether systemd keeps a manager for the user, for units of its own.",
  }),
  directories: textsByName("Mode and owner of the service's folders, by path."),
  content,
  files: textsByName("Mode, owner and digest of the unit files and programs, by path."),
  unitOverrides: texts(
    "Files that change what the unit files say: drop-ins, also such as systemctl set-property makes, and units of the same names that come first. Sorted.",
  ),
  units: textsByName(
    "Each unit of the service: whether it is enabled and active, whether systemd has read its file as it is now, and whether the server was started from that.",
  ),
  lastGood: oneOf(
    ["this", "other", "none"],
    "The unit that is gone back to when another one does not answer: the one in force (`this`), an `other`, or `none` yet.",
  ),
  foreignContainers: texts(
    "Containers in the service's storage that are not its own, with their image. Sorted.",
  ),
  foreignProcesses: texts("Processes of the service's user outside its units. Sorted."),
  leftovers: texts(
    "Images in the service's storage that it does not serve with, and archives of images on the node, unpacked or not. Sorted.",
  ),
  images: texts(
    "Images in the service's storage, as `REPOSITORY@sha256:...`; one without a name, as a pull that was cut off leaves it, as `sha256:...`. Reported only. Sorted.",
  ),
  modelPresent: Type.Boolean({ description: "Whether the model is on the node. Reported only." }),
  volumes: textsByName(
    "What `modelDirectory` and `storage` are on: mount point and whether it is encrypted; `not mounted` where they are on the root file system, or nowhere; `not the sealed volume NAME` where something else is mounted in its place. Reported only.",
  ),
  nodeMemory: Type.String({
    description:
      "Whether the node's kernel has the memory that `nodeMemoryMiB` says: `as declared`, or `N MiB, less than the M declared`; `N MiB` where none is declared.",
  }),
  exposure: textsByName(
    "What `systemd-analyze security` says of each service: 0.0 (nothing exposed) to 10.0. Reported only.",
  ),
  restarts: Type.Integer({
    description: "How often systemd started it again since it was started. Reported only.",
  }),
});

export type InferenceContainerState = Static<typeof inferenceContainerState>;
