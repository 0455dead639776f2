import { posix } from "node:path";
import { Type, type Static } from "typebox";
import type { InputProblem } from "../resource.ts";
import { rebootInputs, rebootProblems } from "./reboot-inputs.ts";

const removeOrKeep = (description: string) =>
  Type.Enum(["remove", "keep"], { type: "string", default: "remove", description });

const journalDirectory = Type.Object(
  {
    directory: Type.String({
      pattern: "^(/[A-Za-z0-9._@+-]+){2,}$",
      description:
        "Directory of the journal, on a sealed volume of the node: below its mount point, e.g. `/srv/logs/journal`.",
    }),
  },
  { additionalProperties: false, title: "JournalDirectory", description: "A journal that outlives a boot." },
);

/** Inputs of `edgeseal:memory:Scratch`. */
export const scratchInputs = Type.Object({
  tmpMiB: Type.Integer({
    minimum: 16,
    maximum: 65_536,
    default: 256,
    description: "How much /tmp may hold, in MiB of memory. Default 256.",
  }),
  varTmpMiB: Type.Integer({
    minimum: 64,
    maximum: 65_536,
    default: 512,
    description:
      "How much /var/tmp may hold, in MiB of memory. An initramfs is built there, and podman puts the blobs of an image there while it pulls. Default 512.",
  }),
  journal: Type.Union([Type.Enum(["volatile"], { type: "string" }), journalDirectory], {
    default: "volatile",
    description:
      "Where journald keeps the journal: `volatile`: in memory, gone with the boot; `directory`: on a sealed volume. While that volume is locked it is in memory, never on the plain root. Default `volatile`.",
  }),
  syslog: Type.Enum(["off", "keep"], {
    type: "string",
    default: "off",
    description:
      "Whether what writes the log to files a second time (rsyslog and its like, log2ram) is kept from running (`off`) or left and only reported (`keep`); the gate flags that. Default `off`.",
  }),
  historyFiles: removeOrKeep(
    "Whether history files of shells and other programs in users' homes are removed (`remove`) or left and only reported (`keep`). Default `remove`: what somebody typed to try a prompt is in them.",
  ),
  leftovers: removeOrKeep(
    "What becomes of what was written to the plain disk before: /tmp and /var/tmp below the memory that is mounted there now, a journal, syslog's files, crash reports. Nothing is removed that is in use. Default `remove`: prompts may be in them.",
  ),
  ...rebootInputs,
});

export type ScratchInputs = Static<typeof scratchInputs>;

/** What the system itself lives in, or what is memory: a sealed volume is mounted at none of these. */
const notAVolume = [
  "/boot",
  "/dev",
  "/etc",
  "/proc",
  "/run",
  "/sys",
  "/tmp",
  "/usr",
  "/var/log/journal",
  "/var/tmp",
];

export function scratchProblems(inputs: ScratchInputs): readonly InputProblem[] {
  return [...directoryProblems(inputs), ...rebootProblems(inputs)];
}

function directoryProblems({ journal }: ScratchInputs): readonly InputProblem[] {
  if (journal === "volatile") return [];
  const { directory } = journal;
  const problem = (message: string): readonly InputProblem[] => [{ path: "journal.directory", message }];
  if (posix.normalize(directory) !== directory)
    return problem(`expected a path without '.' and '..', got '${directory}'`);
  const tree = notAVolume.find((path) => directory === path || directory.startsWith(`${path}/`));
  return tree === undefined
    ? []
    : problem(
        `no sealed volume is mounted at ${tree}, got '${directory}'; name a directory below the volume's mount point, e.g. /srv/logs/journal`,
      );
}

/** Where the journal is kept when everything is as declared. */
export const journalDirectoryOf = ({ journal }: ScratchInputs): string =>
  journal === "volatile" ? "/run/log/journal" : journal.directory;
